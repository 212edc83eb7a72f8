"""Search how queries are sampled and learned from, together; the winner is a config file for `readqg run --config`.

One machine:  ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.tune_pipeline --documents OUT/corpus/documents --out OUT/search --compute.ray-address auto
A cluster:    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.tune_pipeline --documents OUT/corpus/documents --out OUT/search --compute.ray-address auto \\
                  --compute.workers 8
Tiny, on CPU: ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.tune_pipeline --documents /tmp/readqg/corpus/documents --out /tmp/readqg/search --trials 2 \\
                  --max-documents 24 --generate.max-new-tokens 16 --reranker.max-length 128 --compute.ray-address auto
"""

from readqg.cli import job

if __name__ == "__main__":
    job("tune-pipeline")

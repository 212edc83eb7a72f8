"""Search the re-ranker's hyper-parameters; the winner is a config file for `readqg run --config`.

One machine:  ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.tune_reranker --queries OUT/queries --documents OUT/corpus/documents --out OUT/search \\
                  --compute.ray-address auto
A cluster:    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.tune_reranker --queries OUT/queries --documents OUT/corpus/documents --out OUT/search \\
                  --compute.ray-address auto --compute.workers 8
Tiny, on CPU: ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.tune_reranker --queries /tmp/readqg/queries --documents /tmp/readqg/corpus/documents \\
                  --out /tmp/readqg/search --trials 2 --reranker.epochs 1 --reranker.max-length 128 --compute.ray-address auto
"""

from readqg.cli import job

if __name__ == "__main__":
    job("tune-reranker")

"""Re-rank a run.

One machine:  ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.rank --run OUT/bm25 --queries OUT/corpus/queries --documents OUT/corpus/documents \\
                  --model OUT/reranker --out OUT/tuned --compute.ray-address auto
A cluster:    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.rank --run OUT/bm25 --queries OUT/corpus/queries --documents OUT/corpus/documents \\
                  --model OUT/reranker --out OUT/tuned --compute.ray-address auto --compute.workers 8
Tiny, on CPU: ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.rank --run /tmp/readqg/bm25 --queries /tmp/readqg/corpus/queries \\
                  --documents /tmp/readqg/corpus/documents --model /tmp/readqg/reranker --out /tmp/readqg/tuned \\
                  --max-length 128 --compute.ray-address auto
"""

from readqg.cli import job

if __name__ == "__main__":
    job("rank")

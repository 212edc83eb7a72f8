"""Fine-tune the re-ranker on generated queries.

One machine:  ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.train_reranker --queries OUT/queries --documents OUT/corpus/documents --out OUT/reranker \\
                  --compute.ray-address auto
A cluster:    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.train_reranker --queries OUT/queries --documents OUT/corpus/documents --out OUT/reranker \\
                  --compute.ray-address auto --compute.workers 8
Tiny, on CPU: ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.train_reranker --queries /tmp/readqg/queries --documents /tmp/readqg/corpus/documents \\
                  --out /tmp/readqg/reranker --preset small --compute.ray-address auto
"""

from readqg.cli import job

if __name__ == "__main__":
    job("train-reranker")

"""A bi-encoder's best documents for every query.

One machine:  ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.retrieve_dense --documents OUT/corpus/documents --queries OUT/corpus/queries \\
                  --out OUT/dense --compute.ray-address auto
A cluster:    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.retrieve_dense --documents OUT/corpus/documents --queries OUT/corpus/queries \\
                  --out OUT/dense --compute.ray-address auto --compute.workers 8
Tiny, on CPU: ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.retrieve_dense --documents /tmp/readqg/corpus/documents \\
                  --queries /tmp/readqg/corpus/queries --out /tmp/readqg/dense --max-queries 20 --compute.ray-address auto
"""

from readqg.cli import job

if __name__ == "__main__":
    job("retrieve-dense")

"""BM25's best documents for every query.

One machine:  ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.retrieve --documents OUT/corpus/documents --queries OUT/corpus/queries --out OUT/bm25
A cluster:    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.retrieve --documents OUT/corpus/documents --queries OUT/corpus/queries --out OUT/bm25
Tiny, on CPU: ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.retrieve --documents /tmp/readqg/corpus/documents --queries /tmp/readqg/corpus/queries \\
                  --out /tmp/readqg/bm25 --max-queries 20
"""

from readqg.cli import job

if __name__ == "__main__":
    job("retrieve")

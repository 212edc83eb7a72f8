"""Of the samples written for a document, those that have the lengths and forms of real queries.

One machine:  ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.select --queries OUT/queries --like queries.txt \\
                  --out OUT/select
A cluster:    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.select --queries OUT/queries --like queries.txt \\
                  --out OUT/select
Tiny, on CPU: ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.select --queries /tmp/readqg/queries --like queries.txt \\
                  --out /tmp/readqg/select
"""

from readqg.cli import job

if __name__ == "__main__":
    job("select")

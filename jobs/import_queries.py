"""Queries made elsewhere into a queries folder.

One machine:  ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.import_queries --source QUERIES.jsonl --documents OUT/corpus/documents --out OUT/queries
A cluster:    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.import_queries --source s3://BUCKET/QUERIES.jsonl --documents s3://BUCKET/corpus/documents \\
                  --out s3://BUCKET/queries
Tiny, on CPU: ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.import_queries --source /tmp/readqg/inpars.jsonl --documents /tmp/readqg/corpus/documents \\
                  --out /tmp/readqg/queries
"""

from readqg.cli import job

if __name__ == "__main__":
    job("import-queries")

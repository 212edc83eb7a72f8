"""Generated queries into files for other tools.

One machine:  ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.export --queries OUT/queries --documents OUT/corpus/documents --format tevatron --out OUT/tevatron
A cluster:    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.export --queries s3://BUCKET/queries --format hf-dataset --out s3://BUCKET/dataset
Tiny, on CPU: ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.export --queries /tmp/readqg/queries --documents /tmp/readqg/corpus/documents \\
                  --format triplets --out /tmp/readqg/triplets
"""

from readqg.cli import job

if __name__ == "__main__":
    job("export")

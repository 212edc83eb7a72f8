"""Import a corpus into canonical Parquet folders.

One machine:  ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.import_corpus --source CORPUS --out OUT/corpus
A cluster:    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.import_corpus --source CORPUS --out OUT/corpus
Tiny, on CPU: ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.import_corpus --source readqg/sample/corpus --out /tmp/readqg/corpus
"""

from readqg.cli import job

if __name__ == "__main__":
    job("import")

"""Documents spread over a corpus, by clusters of their embeddings, to write queries for.

One machine:  ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.coverage --documents OUT/corpus/documents --max-documents 10000 \\
                  --out OUT/chosen --compute.ray-address auto
A cluster:    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.coverage --documents OUT/corpus/documents --max-documents 10000 \\
                  --out OUT/chosen --compute.ray-address auto --compute.workers 8
Tiny, on CPU: ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.coverage --documents /tmp/readqg/corpus/documents --max-documents 16 \\
                  --out /tmp/readqg/chosen --compute.ray-address auto
"""

from readqg.cli import job

if __name__ == "__main__":
    job("coverage")

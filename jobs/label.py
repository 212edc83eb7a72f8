"""Teacher scores for candidate pairs.

One machine:  ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.label --candidates RUN --queries QUERIES --documents PASSAGES --out OUT/scores \\
                  --compute.ray-address auto
A cluster:    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.label --candidates RUN --queries QUERIES --documents PASSAGES --out OUT/scores \\
                  --compute.ray-address auto --compute.workers 8
Tiny, on CPU: ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.label --candidates /tmp/readqg/bm25/_run.trec --queries /tmp/readqg/corpus/queries \\
                  --documents /tmp/readqg/corpus/documents --out /tmp/readqg/scores --preset small --compute.ray-address auto
"""

from readqg.cli import job

if __name__ == "__main__":
    job("label")

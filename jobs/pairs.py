"""Scores into document-centric pairs.

One machine:  ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.pairs --scores OUT/scores --queries QUERIES --documents PASSAGES --out OUT/pairs \\
                  --compute.ray-address auto
A cluster:    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.pairs --scores OUT/scores --queries QUERIES --documents PASSAGES --out OUT/pairs \\
                  --compute.ray-address auto --compute.workers 8
Tiny, on CPU: ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.pairs --scores /tmp/readqg/scores --queries /tmp/readqg/corpus/queries \\
                  --documents /tmp/readqg/corpus/documents --out /tmp/readqg/pairs --m 1 --compute.ray-address auto
"""

from readqg.cli import job

if __name__ == "__main__":
    job("pairs")

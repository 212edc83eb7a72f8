"""Measure the generated queries.

One machine:  ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.quality --queries OUT/queries --documents OUT/corpus/documents --out OUT/quality \\
                  --compute.ray-address auto
A cluster:    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.quality --queries OUT/queries --documents OUT/corpus/documents --out OUT/quality \\
                  --compute.ray-address auto --compute.workers 8
Tiny, on CPU: ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.quality --queries /tmp/readqg/queries --documents /tmp/readqg/corpus/documents \\
                  --out /tmp/readqg/quality --encoder none --compute.ray-address auto
"""

from readqg.cli import job

if __name__ == "__main__":
    job("quality")

"""The whole way for one corpus.

One machine:  ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.run --corpus CORPUS --out OUT --compute.ray-address auto
A cluster:    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.run --corpus CORPUS --out OUT --compute.ray-address auto --compute.workers 8
Tiny, on CPU: ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.run --out /tmp/readqg/run --preset small --compute.ray-address auto
"""

from readqg.cli import job

if __name__ == "__main__":
    job("run")

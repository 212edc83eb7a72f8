"""Recipes on collections with several seeds, and tables with intervals and tests of significance.

One machine:  ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.experiment --file jobs/experiments/table1.yaml --out OUT/table1 \\
                      --ray-address auto
A cluster:    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.experiment --file jobs/experiments/table1.yaml --out /shared/table1 \\
                      --ray-address auto
Tiny, on CPU: ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.experiment --file jobs/experiments/tiny.yaml --out /tmp/readqg/tiny \\
                      --ray-address auto
"""

from readqg.cli import job

if __name__ == "__main__":
    job("experiment")

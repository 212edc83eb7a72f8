"""Train the soft prompts on pairs.

One machine:  ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.train_generator --pairs OUT/pairs --out OUT/prompts --compute.ray-address auto
A cluster:    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.train_generator --pairs OUT/pairs --out OUT/prompts --compute.ray-address auto \\
                  --compute.workers 8
Tiny, on CPU: ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.train_generator --pairs /tmp/readqg/pairs --out /tmp/readqg/prompts --preset small --steps 2 \\
                  --compute.ray-address auto
"""

from readqg.cli import job

if __name__ == "__main__":
    job("train-generator")

"""Train the soft prompts on pairs.

One machine:  python -m jobs.train_generator --pairs OUT/pairs --out OUT/prompts
A cluster:    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.train_generator --pairs OUT/pairs --out OUT/prompts --compute.ray-address auto \\
                  --compute.workers 8
Tiny, on CPU: python -m jobs.train_generator --pairs /tmp/readqg/pairs --out /tmp/readqg/prompts --preset small --steps 2
"""

from readqg.cli import job

if __name__ == "__main__":
    job("train-generator")

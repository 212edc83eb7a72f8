"""Prompts of worked examples, without training (InPars), to compare trained ones with.

One machine:  ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.few_shot --pairs OUT/pairs --out OUT/few-shot
A cluster:    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.few_shot --pairs /shared/pairs --out /shared/few-shot --examples 5
Tiny, on CPU: ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.few_shot --pairs /tmp/readqg/pairs --out /tmp/readqg/few-shot --examples 1
"""

from readqg.cli import job

if __name__ == "__main__":
    job("few-shot")

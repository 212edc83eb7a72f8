"""Search the generator's hyper-parameters; the winner is a config file for `readqg run --config`.

One machine:  ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.tune_generator --pairs OUT/pairs --out OUT/search --compute.ray-address auto
A cluster:    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.tune_generator --pairs OUT/pairs --out OUT/search --compute.ray-address auto \\
                  --compute.workers 8
Tiny, on CPU: ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.tune_generator --pairs /tmp/readqg/pairs --out /tmp/readqg/search \\
                  --backbone HuggingFaceTB/SmolLM2-135M-Instruct --trials 2 --generator.steps 4 \\
                  --generator.held-out-documents 4 --compute.ray-address auto
"""

from readqg.cli import job

if __name__ == "__main__":
    job("tune-generator")

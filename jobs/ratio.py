"""How much likelier the generator finds every query at r = 1 than at r = 0, for filters of training.

One machine:  ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.ratio --queries OUT/queries --documents OUT/corpus/documents --out OUT/ratio \\
                  --compute.ray-address auto
A cluster:    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.ratio --queries OUT/queries --documents OUT/corpus/documents --out OUT/ratio \\
                  --compute.ray-address auto --compute.workers 8
Tiny, on CPU: ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.ratio --queries /tmp/readqg/queries --documents /tmp/readqg/corpus/documents \\
                  --out /tmp/readqg/ratio --compute.ray-address auto
"""

from readqg.cli import job

if __name__ == "__main__":
    job("ratio")

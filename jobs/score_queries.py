"""Every generated query scored with its own document by the model that is to be trained, for a filter of training.

One machine:  ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.score_queries --queries OUT/queries --documents OUT/corpus/documents --out OUT/score-queries \\
                  --compute.ray-address auto
A cluster:    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.score_queries --queries OUT/queries --documents OUT/corpus/documents --out OUT/score-queries \\
                  --compute.ray-address auto --compute.workers 8
Tiny, on CPU: ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.score_queries --queries /tmp/readqg/queries --documents /tmp/readqg/corpus/documents \\
                  --out /tmp/readqg/score-queries --compute.ray-address auto
"""

from readqg.cli import job

if __name__ == "__main__":
    job("score-queries")

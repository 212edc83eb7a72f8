"""Every generated query asked back of the corpus, for filters and mined negatives of training.

One machine:  ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.round_trip --queries OUT/queries --documents OUT/corpus/documents --out OUT/round-trip
A cluster:    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.round_trip --queries OUT/queries --documents OUT/corpus/documents --out OUT/round-trip
Tiny, on CPU: ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.round_trip --queries /tmp/readqg/queries --documents /tmp/readqg/corpus/documents \\
                  --out /tmp/readqg/round-trip
"""

from readqg.cli import job

if __name__ == "__main__":
    job("round-trip")

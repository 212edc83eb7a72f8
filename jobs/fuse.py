"""A re-ranker's scores and BM25's, standardised for each query and added.

One machine:  ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.fuse --run OUT/tuned --first OUT/bm25 --out OUT/tuned-fused
A cluster:    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.fuse --run OUT/tuned --first OUT/bm25 --out OUT/tuned-fused --weight 0.5
Tiny, on CPU: ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.fuse --run /tmp/readqg/tuned --first /tmp/readqg/bm25 --out /tmp/readqg/tuned-fused
"""

from readqg.cli import job

if __name__ == "__main__":
    job("fuse")

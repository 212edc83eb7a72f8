"""Write queries for documents.

One machine:  ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.generate --documents OUT/corpus/documents --out OUT/queries --compute.ray-address auto
A cluster:    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.generate --documents OUT/corpus/documents --out OUT/queries --compute.ray-address auto \\
                  --compute.workers 8
Tiny, on CPU: ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
                  python -m jobs.generate --documents /tmp/readqg/corpus/documents --out /tmp/readqg/queries \\
                  --max-documents 32 --document-tokens 64 --max-new-tokens 16 --compute.ray-address auto
"""

from readqg.cli import job

if __name__ == "__main__":
    job("generate")

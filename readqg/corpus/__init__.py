"""Documents, queries and judgments: reading them in any of the known formats, and importing them to canonical Parquet."""

from readqg.corpus.access import Documents, input_fingerprint, read_judgments, read_texts, subset
from readqg.corpus.rows import document_text

__all__ = ["Documents", "document_text", "input_fingerprint", "read_judgments", "read_texts", "subset"]

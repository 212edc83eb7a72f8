"""Documents, queries and judgments: reading them in any of the known formats, and importing them to canonical Parquet."""

from readqg.corpus.access import Documents, input_fingerprint, read_judgments, read_texts, subset, write_qrels
from readqg.corpus.importing import ImportSummary, import_corpus
from readqg.corpus.rows import document_text

__all__ = [
    "Documents", "ImportSummary", "document_text", "import_corpus", "input_fingerprint", "read_judgments", "read_texts", "subset",
    "write_qrels",
]

"""ReadQG: from a corpus without labelled queries to a re-ranker fine-tuned for it."""

__version__ = "0.1.0"

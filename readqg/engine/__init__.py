"""The only package that imports ray or deepspeed: it runs stages, and knows nothing of queries or relevance."""

from readqg.engine import access

access.use_token_if_there()

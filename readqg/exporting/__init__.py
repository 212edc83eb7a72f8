"""Generated queries for other tools: files of a format of theirs, made from a queries folder and its documents."""

from readqg.exporting.export import export

__all__ = ["export"]

"""Documents and queries in, queries out: what is read, and for whom it is written."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from readqg.config.base import Location, OptionalLocation, Settings, placement


class ImportSettings(Settings):
    id_field: str = "_id"
    """Field of ids, in JSON lines, CSV and Parquet; BEIR's by default. `doc_id`, `id` are tried where `_id` is absent; `@line`: a row's
    number is its id."""
    title_field: str = "title"
    """Of titles; a row may have none."""
    text_field: str = "text"
    """Of texts."""
    max_text_chars: int = Field(1_000_000, ge=1)
    """Longer texts are cut here, and counted."""
    max_rejected_share: float = Field(0.01, ge=0, le=1)
    """The import fails when more than this share of the lines is bad; of a short file of documents or queries three may be, a tenth of
    it at most. 0: none."""
    max_rejected_file_share: float = Field(0.5, ge=0, le=1)
    """The import fails when more than this share of text files (.txt, .md, .html, .pdf) cannot be read."""
    passage_words: int = Field(200, ge=0)
    """Text files are cut into passages of so many words at most, at the end of a sentence where there is one; 0: not cut by size."""
    passage_overlap_words: int = Field(30, ge=0)
    """A passage begins so many words before the end of the one before it."""
    passage_by_heading: bool = True
    """No passage of Markdown or HTML goes over a heading, which is added to its title."""
    passage_min_words: int = Field(20, ge=0)
    """Text under a heading that is shorter is joined to what stands before it."""
    dataset_split: str | None = None
    """Which split of a Hugging Face `datasets` folder holds the documents; none: `corpus`, or the only one."""
    shard_rows: int = Field(2048, ge=1)
    """Documents of a shard, the unit of work, of retry and of commit."""

    @model_validator(mode="after")
    def _passages_go_on(self) -> ImportSettings:
        if self.passage_words and self.passage_overlap_words > self.passage_words // 2:
            raise ValueError(f"passage_overlap_words is {self.passage_overlap_words}, more than half of passage_words "
                             f"({self.passage_words}): lower it")
        return self


class ImportConfig(ImportSettings):
    source: Location
    """A BEIR folder; a file: .jsonl, .csv, .tsv, .parquet, each also .gz; a folder of text files: .txt, .md, .html, .pdf, or one of
    them; a Hugging Face `datasets` folder (Arrow or Parquet); `irds:ID`, a collection of ir_datasets."""
    out: Location
    """The folder to make: `documents`, `queries` and `judgments` in it, whichever the source holds."""
    kind: Literal["auto", "documents", "queries", "judgments"] = "auto"
    """What a single file holds; a BEIR folder holds all three."""
    split: str = "test"
    """Which `qrels/SPLIT.tsv` of a BEIR folder."""


class ImportQueriesConfig(Settings):
    """Queries made elsewhere, for documents that are here."""

    source: Location
    """Rows of doc_id (or doc_text), query and perhaps relevance: .jsonl, .csv, .tsv, .parquet, each also .gz (InPars, Promptagator); or
    GPL's folder of PREFIX-queries.jsonl and PREFIX-qrels/."""
    out: Location
    """The queries folder to make."""
    documents: OptionalLocation = None
    """The corpus. With it, queries for documents that it lacks are set aside, and a document may be named by its text."""
    doc_field: str = "doc_id"
    """Field of the document's id."""
    query_field: str = "query"
    """Field of the query, or of a list of them."""
    relevance_field: str = "relevance"
    """Field of r in [0, 1], if there is one. A few other names in use are tried for document and query."""
    relevance: float = Field(1.0, ge=0, le=1)
    """Of a query whose relevance the source does not say."""
    split: str = "train"
    """Which `qrels/SPLIT.tsv` of a folder."""
    max_rejected_share: float = placement(0.01, ge=0, le=1)
    """The import fails when more than this share of the lines is bad; of a short file three may be, a tenth of it at most. 0: none."""
    shard_rows: int = Field(2048, ge=1)
    """Queries of a shard."""


class ExportConfig(Settings):
    """Generated queries for other tools."""

    queries: Location
    """Generated queries."""
    documents: OptionalLocation = None
    """Needed by all formats but `hf-dataset`."""
    out: Location
    """The folder to make."""
    format: Literal["triplets", "pairs", "list", "flagembedding", "tevatron", "beir", "hf-dataset"] = "triplets"
    """`triplets`, `pairs`, `list`: columns for sentence-transformers' CrossEncoderTrainer; `beir`: a folder that many tools read."""
    negative_relevance: float = Field(0.0, ge=0, lt=1)
    """The r of the hard negative queries, in `triplets`."""
    negatives: int = Field(7, ge=0, le=1000)
    """Documents beside a query's own, in the formats that want negative documents (list, flagembedding, tevatron)."""
    negatives_from: Literal["random", "found"] = "random"
    """Drawn at random from the corpus (easy), or, best first, what `round-trip` found for the query (hard, some perhaps relevant)."""
    seed: int = 0
    """Of the documents that are drawn at random."""

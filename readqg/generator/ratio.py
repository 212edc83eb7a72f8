"""`readqg ratio`: how much likelier the generator finds a query under its document at r = 1 than at r = 0.

S(q | d, 1) - S(q | d, 0), in nats, is what the two ends of the relevance prompt make of a query, whoever wrote it: training filters
positives and verifies negatives by it, and the search over generators takes it of real queries as the measure of control.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyarrow as pa
import torch

from readqg import devices, models, sample
from readqg.batching import run_batches, tokens_for
from readqg.config import RatioConfig
from readqg.corpus import Documents
from readqg.errors import ModelError
from readqg.generator.backbone import Backbone
from readqg.generator.facts import knows_relevance
from readqg.generator.losses import IGNORED
from readqg.generator.model import Generator, padded
from readqg.generator.prompts import SoftPrompt, files_fingerprint
from readqg.places import place_of
from readqg.query_rows import QueryRowsStage

RATIO = "ratio"
_RELEVANCES = (1.0, 0.0)


def log_ratios(
    model: Generator, texts: Sequence[str], queries: Sequence[Sequence[str]], document_tokens: int, query_tokens: int
) -> list[list[float]]:
    """S(q | d, 1) - S(q | d, 0) in nats of every query in `queries[i]` under `texts[i]`, one batch: each document is encoded once a
    relevance."""
    ids = [model.document_ids(text, document_tokens) for text in texts]
    document_ids, mask = padded([row for row in ids for _ in _RELEVANCES], 0)
    encoded = model.encode(document_ids, mask, torch.tensor(_RELEVANCES * len(ids)))
    labels, _ = padded([model.target_ids(query, query_tokens) for own in queries for query in own], IGNORED)
    relevant = torch.tensor([2 * i for i, own in enumerate(queries) for _ in own])
    sums = [model.token_log_likelihoods(encoded, relevant + side, labels).double().sum(-1) for side in range(len(_RELEVANCES))]
    found = iter((sums[0] - sums[1]).detach().cpu().tolist())
    return [[next(found) for _ in own] for own in queries]


class RatioStage(QueryRowsStage):
    """The rows of a queries folder, all its columns, with `ratio`: null where there is no query, or, with an `error`, where it is not
    finite.

    Raises `InputError` for folders that cannot be read, `ModelError` for prompts or a backbone that cannot be used, and for prompts
    that know no relevance."""

    name = "ratio"

    def __init__(self, config: RatioConfig) -> None:
        super().__init__(config.queries, config.shard_rows, pa.schema([(RATIO, pa.float32())]))
        self.config = config
        self.documents = Documents.open(config.documents)
        self.prompts = str(place_of(config.prompts or sample.prompts_folder()).absolute())
        prompts = SoftPrompt.load(self.prompts)
        if not knows_relevance(self.prompts):
            raise ModelError(f"{self.prompts}: these prompts know no relevance (few-shot and unconditional ones do not), so a query's "
                             "ratio of r = 1 to r = 0 says nothing. Give prompts that were trained with it.")
        self.backbone = config.backbone or prompts.facts.base_model
        prompts.check_fits(Backbone.load(self.backbone, device="meta"))

    def inputs(self) -> dict[str, str]:
        return {**super().inputs(), "documents": self.documents.fingerprint}

    def models(self) -> dict[str, str]:
        return {"backbone": models.fingerprint(self.backbone), "prompts": files_fingerprint(self.prompts)}

    def load(self) -> None:
        devices.set_threads(self.config.compute)
        device, dtype = devices.device_and_dtype(self.config.compute)
        self._model = Generator.load(self.backbone, self.prompts, device, dtype)
        self._halvings = 0

    def compute(self, table: pa.Table) -> pa.Table:
        rows: dict[str, list[int]] = {}
        queries, errors = table["query"].to_pylist(), table["error"].to_pylist()
        for row, (doc_id, error) in enumerate(zip(table["doc_id"].to_pylist(), errors, strict=True)):
            if error is None and (queries[row] or "").strip():
                rows.setdefault(doc_id, []).append(row)
        ratios: list[float | None] = [None] * table.num_rows
        texts, of_document = self.documents.texts(list(rows)), list(rows.values())
        for own, found in zip(of_document, self._ratios(texts, [[queries[row] for row in own] for own in of_document]), strict=True):
            for row, ratio in zip(own, found, strict=True):
                ratios[row], errors[row] = (ratio, None) if math.isfinite(ratio) else (None, f"the likelihood ratio is {ratio}")
        table = table.set_column(table.column_names.index("error"), "error", pa.array(errors, pa.string()))
        return table.append_column(RATIO, pa.array(ratios, pa.float32()))

    @torch.inference_mode()
    def _ratios(self, texts: list[str], queries: list[list[str]]) -> list[list[float]]:
        c, model = self.config, self._model
        lengths = [
            2 * len(own) * (model.added_tokens + len(model.document_ids(text, c.document_tokens))
                            + max(len(model.target_ids(query, c.query_tokens)) for query in own))
            for text, own in zip(texts, queries, strict=True)
        ]
        found, self._halvings = run_batches(lengths, tokens_for(model.device, c.batch_tokens), lambda batch: log_ratios(
            model, [texts[i] for i in batch], [queries[i] for i in batch], c.document_tokens, c.query_tokens))
        return found

    def metrics(self) -> dict[str, float]:
        """Of the last `compute`: how often running out of memory halved the batches."""
        return {"halvings": self._halvings}

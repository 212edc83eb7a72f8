"""`readqg few-shot`: prompts that show the model worked examples instead of being trained (InPars; Bonifacio et al., 2022).

The examples are hard tokens in the place of P_inst, and P_rel is empty: queries are the same at every relevance, but for the draw.
So few-shot generation runs through the same decoder, sharding and sampling as trained prompts do, and the two can be compared.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from readqg import models
from readqg.config import FewShotConfig, GeneratorSettings, identity
from readqg.errors import InputError
from readqg.generator.backbone import Backbone
from readqg.generator.collation import COLUMNS
from readqg.generator.prompts import SoftPrompt
from readqg.random_rows import in_order
from readqg.shards import OutputFolder, open_input, stable_hash

_EXAMPLE = "Example {number}:\nDocument:\n{document}\nRelevant Query:"
_SEPARATOR = "\nRelevant Query:"


def few_shot(config: FewShotConfig) -> dict[str, Any]:
    """Write a prompts folder; returns what its `_SUCCESS` says. Raises `InputError` where the pairs hold too few short documents."""
    pairs = open_input(config.pairs, COLUMNS)
    folder = OutputFolder.begin(
        config.out, "few-shot", identity(config), {"pairs": pairs.fingerprint}, {"backbone": models.fingerprint(config.backbone)})
    if folder.done:
        return folder.success()
    backbone = Backbone.load(config.backbone)
    shown = [(row["text"], _best(row)) for row in _drawn(config, pairs)]
    text = instruction(shown)
    settings = GeneratorSettings(
        instruction=text, n_instruction=len(backbone.token_ids(text)), n_relevance=0, separator=_SEPARATOR)
    made = folder.tmp / "prompts"
    made.mkdir(parents=True, exist_ok=True)
    prompts = SoftPrompt.initial(backbone, settings, pairs.fingerprint)
    prompts.facts = replace(prompts.facts, conditioned_on="examples")
    prompts.save(made)
    return folder.commit_files(made, {"examples": [query for _, query in shown], "tokens": settings.n_instruction})


def instruction(examples: list[tuple[str, str]]) -> str:
    """(document, query) pairs, and the beginning of one more, which ends where the document to ask about goes."""
    tidy = [" ".join(document.split()) for document, _ in examples]
    shown = [f"{_EXAMPLE.format(number=i + 1, document=tidy[i])} {query}\n\n" for i, (_, query) in enumerate(examples)]
    return "".join(shown) + _EXAMPLE.format(number=len(examples) + 1, document="").removesuffix(_SEPARATOR)


def _drawn(config: FewShotConfig, pairs: Any) -> list[dict[str, Any]]:
    """`config.examples` documents of at most `config.example_words` words with a positive query, drawn by a stable hash."""
    rows = heapq.nsmallest(config.examples, _keyed(config, pairs))
    if len(rows) < config.examples:
        raise InputError(f"{config.pairs} has {len(rows)} documents of at most {config.example_words} words with a positive query; "
                         f"{config.examples} are asked for. Give more pairs, fewer --examples or a larger --example-words.")
    return [row for _, _, row in rows]


def _keyed(config: FewShotConfig, pairs: Any) -> Iterator[tuple[int, str, dict[str, Any]]]:
    for _, table in in_order(pairs, COLUMNS):
        for row in table.to_pylist():
            if row["positives"] and len(row["text"].split()) <= config.example_words:
                yield stable_hash(row["doc_id"], config.seed), row["doc_id"], row


def _best(row: dict[str, Any]) -> str:
    return str(max(row["positives"], key=lambda query: (query["score"], query["query_id"]))["query"])

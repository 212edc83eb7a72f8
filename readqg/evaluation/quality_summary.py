"""What a quality folder says of a whole corpus: means with counts, and whether the judge judged itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from readqg import models
from readqg.errors import ModelError
from readqg.places import Place, place_of
from readqg.shards import open_input, read_json

_MEANS = ("distinct", "diversity", "rel_plus", "rel_minus", "delta", "control")
_RANKS = ("bm25_rank_plus", "bm25_rank_minus", "encoder_rank_plus", "encoder_rank_minus")
_TEXTS = ("query_plus", "query_minus")
SELF_JUDGED = "self-judged"


def summarise_quality(folder: str | Place, roles: Mapping[str, str] | None = None, judge: str | None = None) -> dict[str, Any]:
    """Means over the documents of a quality folder, each with the count of documents it is over (mean None where there is none).

    Ranks: mean reciprocal rank, and shares at 1 and within 10. `query_plus`, `query_minus`: the share of the corpus' first
    queries that differ from one another. `roles`: role -> model, such as {"teacher": ..., "start": ...}; where one of them
    has the weights or the name of `judge`, `label` is "self-judged" and `self_judged` names the roles. Raises `InputError`
    for an unfinished folder."""
    done = open_input(folder, (*_MEANS, *_RANKS, *_TEXTS, "error"))
    table = done.read()
    summary: dict[str, Any] = {"documents": table.num_rows, "errors": table.num_rows - table["error"].null_count}
    for name in _MEANS:
        summary[name] = _facts(table, name, mean=lambda values: values)
    for name in _RANKS:
        summary[name] = _facts(table, name, mean_reciprocal=lambda r: 1 / r, top_1=lambda r: r <= 1, top_10=lambda r: r <= 10)
    for name in _TEXTS:
        texts = table[name].drop_null().to_pylist()
        summary[name] = {"distinct": len(set(texts)) / len(texts) if texts else None, "count": len(texts)}
    summary["self_judged"] = _self_judged(place_of(folder), roles or {}, judge)
    summary["label"] = SELF_JUDGED if summary["self_judged"] else None
    return summary


def _facts(table: pa.Table, name: str, **measures: Any) -> dict[str, float | int | None]:
    values = table[name].drop_null().to_numpy().astype(np.float64)
    facts = {fact: float(np.mean(of(values))) if len(values) else None for fact, of in measures.items()}
    return {**facts, "count": len(values)}


def _self_judged(folder: Place, roles: Mapping[str, str], judge: str | None) -> list[str]:
    """By name too: one model is about in several packagings (the hub's, a quantised one) with weights a little apart."""
    weights = read_json(folder / "_config.json")["models"]["judge"]
    return [role for role, name in roles.items() if (judge and _plain(name) == _plain(judge)) or _fingerprint(name) == weights]


def _plain(name: str) -> str:
    """The last part of a model's name or path, letters and digits alone: MiniLM-L12 and MiniLM-L-12 are one."""
    return re.sub("[^a-z0-9]", "", Path(name).name.lower())


def _fingerprint(name: str) -> str | None:
    try:
        return models.fingerprint(name)
    except ModelError:  # a model that is not on this machine is not the judge, which was
        return None

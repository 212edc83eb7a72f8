"""Measures of a ranking against judgments, by trec_eval's definitions (section 5), through ir-measures.

Measures have ir-measures' names: `nDCG@10`, `R@100`, `RR@10`, `R(rel=2)@100`, ... A query with judgments and no result counts
0 (trec_eval -c); a query without judgments is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import ir_measures

from readqg.errors import ConfigError, InputError
from readqg.runs import ranked

Qrels = Mapping[str, Mapping[str, int]]
Scores = Mapping[str, Mapping[str, float]]


def evaluate(qrels: Qrels, run: Scores, measures: Iterable[str]) -> dict[str, float]:
    """The mean of each measure over the judged queries, under the name it was asked by.

    `qrels` {query_id: {doc_id: grade}}, `run` {query_id: {doc_id: score}}. Raises `InputError` for no judgments,
    `ConfigError` for an unknown measure."""
    parsed = parse(measures)
    means = ir_measures.calc_aggregate(list(parsed.values()), _judged(qrels), _in_order(qrels, run))
    return {name: float(means[measure]) for name, measure in parsed.items()}


def per_query(qrels: Qrels, run: Scores, measures: Iterable[str]) -> dict[str, dict[str, float]]:
    """{measure: {query_id: value}} over the judged queries, in the order of `qrels`. Raises as `evaluate` does."""
    parsed = parse(measures)
    values: dict[Any, dict[str, float]] = {measure: dict.fromkeys(qrels, 0.0) for measure in parsed.values()}
    for metric in ir_measures.iter_calc(list(values), _judged(qrels), _in_order(qrels, run)):
        values[metric.measure][metric.query_id] = float(metric.value)
    return {name: values[measure] for name, measure in parsed.items()}


def parse(measures: Iterable[str]) -> dict[str, Any]:
    """Name -> ir-measures object. Raises `ConfigError` for a name that ir-measures does not know or cannot compute here."""
    parsed = {}
    for name in measures:
        try:
            parsed[name] = ir_measures.parse_measure(name)
            ir_measures.evaluator([parsed[name]], {"q": {"d": 1}})
        except (NameError, ValueError, TypeError, AssertionError) as error:
            raise ConfigError(f"measures: {name!r} is no measure ({error}). Names are those of ir-measures, such as nDCG@10, "
                              "R@100, RR@10, AP, P@5, R(rel=2)@100.") from error
    return parsed


def _judged(qrels: Qrels) -> Qrels:
    if not qrels:
        raise InputError("there are no judgments to measure against.")
    return qrels


def _in_order(qrels: Qrels, run: Scores) -> dict[str, dict[str, float]]:
    """The run with its places for scores: the programs behind ir-measures break ties each in its own way (trec_eval by
    doc_id descending, MS MARCO's script ascending), and so all of them see one order."""
    return {
        query_id: {doc_id: -float(place) for place, (doc_id, _) in enumerate(ranked(run[query_id]))}
        for query_id in qrels if run.get(query_id)
    }

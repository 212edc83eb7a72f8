"""Choosing and judging weights on held-out synthetic documents; test judgments have no part in it (method, section 4).

Each held-out document's own r = 1 query is searched with BM25 in the whole corpus; the re-ranker then ranks BM25's top 20
and the document. The measure is nDCG@10 of the document. `guard` compares the trained model with its start, document by
document, and names the one to use.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from readqg.corpus import Documents
from readqg.errors import InputError
from readqg.fusion import best_weight, write_weights
from readqg.places import Place, place_of
from readqg.retrieval import bm25_run
from readqg.runs import ranked
from readqg.shards import stable_hash

log = logging.getLogger("readqg")

GUARD_FILE = "guard.json"
LOG_FILE = "training_log.jsonl"
CANDIDATES = 20
_CUTOFF = 10
_RESAMPLES = 10_000
_NEXT = (
    "What may help, cheapest first: BM25's score added to the start's, which needs no training (`readqg search` adds it, to runs `readqg "
    "fuse`); a look at the worst queries (`readqg inspect QUERIES`); positives that find their document, with documents mined by BM25 "
    "(`--round-trip 10 --mined 4 --w-mr 0` after `readqg round-trip`; in `run`, `--reranker.round-trip 10 --reranker.mined 4 "
    "--reranker.w-mr 0`); more documents (`run --until-no-gain`).")
SURE = 0.05
"""The p-value up to which a gain on held-out documents counts as shown."""
_LOGIT_WIDTH = 0.25
_COLLAPSED_SHARE = 0.01  # of the start's spread: below it, scores no longer tell documents apart


@dataclass(frozen=True)
class HeldOut:
    """Held-out documents as queries to rank. `queries[i]`: a query; `candidates[i]`: its candidates' ids; `doc_ids[i]`: the document it
    was generated from; `first[i]`: BM25's scores of the candidates, where they are known. It goes to every worker, so it holds no texts
    of documents."""

    doc_ids: list[str]
    candidates: list[list[str]]
    queries: list[str]
    first: list[np.ndarray] = field(default_factory=list)

    @classmethod
    def search(cls, queries: Mapping[str, str], documents: Documents) -> HeldOut:
        """queries: doc_id of the source -> its generated query. BM25 searches all of `documents`."""
        # A query's own name: an id shared with a document would read as ArguAna's case, where it must not be found.
        names = [f"query of {source}" for source in queries]
        run = bm25_run(documents, dict(zip(names, queries.values(), strict=True)), top_k=CANDIDATES)
        candidates = [list(dict.fromkeys([*run[name], source])) for name, source in zip(names, queries, strict=True)]
        first = [np.array([run[name].get(doc_id, min(run[name].values(), default=0.0)) for doc_id in ids])
                 for name, ids in zip(names, candidates, strict=True)]
        return cls(list(queries), candidates, list(queries.values()), first)

    def pairs(self, documents: Documents) -> list[tuple[str, str]]:
        """(query, document text): all candidates of the first query, then of the next."""
        return [(query, text) for query, ids in zip(self.queries, self.candidates, strict=True) for text in documents.texts(ids)]

    def judge(self, logits: np.ndarray) -> Validation:
        """`logits`: one a pair of `pairs`. A logit that is not finite ranks last, and is counted."""
        finite = np.isfinite(logits)
        scores = np.where(finite, logits, -np.inf)
        ndcg, spreads, start = {}, [], 0
        counts: dict[float, list[int]] = {}
        for source, ids in zip(self.doc_ids, self.candidates, strict=True):
            own = scores[start:start + len(ids)]
            rank = [doc_id for doc_id, _ in ranked(dict(zip(ids, own.tolist(), strict=True)))].index(source) + 1
            lost = not np.isfinite(own[ids.index(source)])
            ndcg[source] = 0.0 if lost or rank > _CUTOFF else 1 / math.log2(1 + rank)
            spreads.append(float(np.std(own[np.isfinite(own)])) if np.isfinite(own).any() else 0.0)
            for doc_id, logit in zip(ids, own.tolist(), strict=True):
                if math.isfinite(logit):
                    counts.setdefault(round(logit / _LOGIT_WIDTH) * _LOGIT_WIDTH, [0, 0])[doc_id != source] += 1
            start += len(ids)
        counted = {f"{logit:g}": counts[logit] for logit in sorted(counts)}
        weight = self._fusion_weight(logits) if finite.all() else None
        return Validation(ndcg, float(np.mean(spreads)), int((~finite).sum()), fusion_weight=weight, logits=counted)

    def _fusion_weight(self, logits: np.ndarray) -> float | None:
        if not self.first:
            return None
        scores = np.split(logits, np.cumsum([len(ids) for ids in self.candidates])[:-1])
        sources = [ids.index(source) for source, ids in zip(self.doc_ids, self.candidates, strict=True)]
        return best_weight(scores, self.first, sources)


@dataclass(frozen=True)
class Validation:
    """What a model makes of the held-out documents. `ndcg`: doc_id -> nDCG@10 of that document for its own query;
    `spread`: standard deviation of the logits within a query's candidates, a mean over queries; `not_finite`: logits that
    were NaN or infinite; `fusion_weight`: the weight of BM25 beside the model that is best for these documents, all of them;
    `logits`: a logit, to the nearest quarter -> how many pairs of a query with its own document have it, and how many with another."""

    ndcg: dict[str, float]
    spread: float
    not_finite: int
    fusion_weight: float | None = None
    logits: dict[str, list[int]] = field(default_factory=dict)

    @property
    def score(self) -> float:
        return float(np.mean(list(self.ndcg.values())))

    @property
    def choice_score(self) -> float:
        """The mean over the half of the documents, by a stable hash, that the weights are chosen by."""
        return self.choosing().score

    def choosing(self) -> Validation:
        """This validation on the half of the documents that choices are made by."""
        return self.only(for_choosing(self.ndcg))

    def only(self, doc_ids: Collection[str]) -> Validation:
        """This validation with no other documents' nDCG; spread and count stay those of all."""
        return replace(self, ndcg={doc_id: value for doc_id, value in self.ndcg.items() if doc_id in doc_ids})

    def to_log(self) -> dict[str, Any]:
        """JSON-able; `score` is what the best weights are chosen by."""
        return {"score": self.choice_score, **{name: value for name, value in asdict(self).items() if value is not None}}

    @classmethod
    def from_log(cls, metrics: Mapping[str, Any]) -> Validation:
        return cls(dict(metrics["ndcg"]), float(metrics["spread"]), int(metrics["not_finite"]), metrics.get("fusion_weight"),
                   dict(metrics.get("logits", {})))


Broken = Literal["not finite", "collapsed"]


def write_learned_weights(folder: Path, before: Validation, after: Validation) -> None:
    """The weights of BM25 beside the start and beside the trained model, into its folder, where both were learned."""
    if before.fusion_weight is not None and after.fusion_weight is not None:
        write_weights(folder, after.fusion_weight, before.fusion_weight, len(after.ndcg))


@dataclass(frozen=True)
class Verdict:
    """Which model to use, and on what evidence. `before`, `after`, `difference`: mean nDCG@10 over the held-out documents;
    `interval`: 95 % bootstrap interval of the difference; `p_value`: one-sided paired randomisation test that it is above 0,
    which with few documents is the more honest of the two. `better`, `worse`: documents. `chosen_among`: validations that the
    trained weights were the best of; where there were several, one half of the held-out documents chose and the other judges. `broken`:
    what is wrong with the trained model's scores, whatever their nDCG."""

    use: Literal["start", "tuned"]
    reason: str
    before: float
    after: float
    difference: float
    interval: tuple[float, float]
    p_value: float
    better: int
    worse: int
    held_out_documents: int
    chosen_among: int
    broken: Broken | None = None

    def write(self, folder: Path, start: str) -> None:
        """`guard.json`: the verdict, and the start's name."""
        (folder / GUARD_FILE).write_text(json.dumps({**asdict(self), "start": start}, indent=1) + "\n")


def read_verdict(folder: str | Place) -> tuple[Verdict, str]:
    """The verdict of a re-ranker's folder, and the start's name. Raises `InputError` where the folder has none."""
    path = place_of(folder) / GUARD_FILE
    try:
        content = json.loads(path.read_text())
        start = content.pop("start")
        return Verdict(**{**content, "interval": tuple(content["interval"])}), start
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}). Give a folder that `readqg train-reranker` made.") from error


def announce(folder: str | Place) -> dict[str, Any]:
    """Say which model to use, as a warning where it is not the trained one; returns what `guard.json` holds."""
    verdict, start = read_verdict(folder)
    level = logging.INFO if verdict.use == "tuned" else logging.WARNING
    stays = f"USE THE START, {start}. The trained model stays in {folder}, for study."
    advice = f"Use {folder}." if verdict.use == "tuned" else stays
    v = verdict
    log.log(level, "%s nDCG@10 on %d held-out synthetic documents: start %.4f, trained %.4f (difference %+.4f, 95 %% interval "
            "%+.4f to %+.4f). %s", v.reason, v.held_out_documents, v.before, v.after, v.difference, *v.interval, advice)
    if verdict.use == "start" and verdict.broken is None:
        log.info("%s", _NEXT)
    return {**asdict(verdict), "start": start}


def verdict_from_log(lines: Sequence[Mapping[str, Any]], by_half: bool = False) -> Verdict:
    """The verdict on a whole training log; `by_half`: on the half that nothing is chosen by even where there was nothing to choose. Raises
    `InputError` where the start was not validated."""
    before, best, number = best_validation(lines)
    if number < 2 and not by_half:
        return guard(before, best, number)
    # Judged where it was chosen, even a useless training would look like a gain.
    judging = before.ndcg.keys() - for_choosing(before.ndcg) or before.ndcg.keys()
    return guard(before.only(judging), best.only(judging), number)


def best_validation(lines: Sequence[Mapping[str, Any]]) -> tuple[Validation, Validation, int]:
    """Of a training log: the validation before the first step, the best one after it (of equal ones the last, as the training loop
    keeps them; where there is none, the first again), and how many it is the best of. Raises `InputError` as `verdict_from_log` does."""
    validations = [(line["step"], Validation.from_log(line["validation"])) for line in lines if "validation" in line]
    before = [v for step, v in validations if step == 0]
    after = [v for step, v in validations if step > 0]
    if not before:
        raise InputError("The training log has no validation of the start (step 0), so there is nothing to compare with. "
                         "Delete the folder and train again.")
    best = max(reversed(after), key=lambda v: v.choice_score) if after else before[0]
    return before[0], best, len(after)


def guard(before: Validation, after: Validation, chosen_among: int = 1, seed: int = 0) -> Verdict:
    """The trained model is the one to use where its mean nDCG@10 is shown to be higher than the start's (p <= 0.05, one-sided) and its
    scores have not collapsed.

    Raises `ValueError` where the two were not judged on the same documents."""
    if before.ndcg.keys() != after.ndcg.keys():
        raise ValueError("the start and the trained model were judged on different documents")
    differences = np.array([after.ndcg[doc_id] - before.ndcg[doc_id] for doc_id in before.ndcg])
    difference = float(differences.mean())
    interval, p_value = _evidence(differences, np.random.default_rng(seed))
    broken: Broken | None = "not finite" if after.not_finite else "collapsed" if has_collapsed(before, after) else None
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    changed = f"{better} better, {worse} worse and {len(differences) - better - worse} alike"
    use, reason = _decide(before, after, broken, difference, p_value, changed)
    return Verdict(
        use, reason, before.score, after.score, difference, interval, p_value, better, worse, len(differences), chosen_among,
        broken)


def has_collapsed(before: Validation, after: Validation) -> bool:
    """Whether the scores no longer tell the candidates of a query apart. Where the start's are not spread either, as of queries that
    find no document but their own, there is nothing to lose."""
    return before.spread > 0 and after.spread <= _COLLAPSED_SHARE * before.spread


def for_choosing(doc_ids: Iterable[str]) -> set[str]:
    """Of the held-out documents those that choices are made by: every second one in the order of a stable hash."""
    return set(sorted(doc_ids, key=stable_hash)[::2])


def _evidence(differences: np.ndarray, rng: np.random.Generator) -> tuple[tuple[float, float], float]:
    shape = (_RESAMPLES, len(differences))
    low, high = np.quantile(differences[rng.integers(len(differences), size=shape)].mean(axis=1), [0.025, 0.975])
    flipped = (rng.choice([-1.0, 1.0], size=shape) * differences).mean(axis=1)
    p_value = (1 + (flipped >= differences.mean() - 1e-12).sum()) / (1 + _RESAMPLES)
    return (float(low), float(high)), float(p_value)


def _decide(
    before: Validation, after: Validation, broken: Broken | None, difference: float, p_value: float, changed: str,
) -> tuple[Literal["start", "tuned"], str]:
    if broken == "not finite":
        return "start", f"{after.not_finite} of the trained model's scores are not finite numbers."
    if broken == "collapsed":
        return "start", (f"The trained model's scores have collapsed: within a query they differ by {after.spread:.2g} "
                         f"(standard deviation), the start's by {before.spread:.2g}.")
    if difference <= 0:
        full = min(before.ndcg.values()) == 1
        return "start", "The trained model is not better than its start on held-out synthetic documents." + (
            f" The start has each of the {len(before.ndcg)} first already: they can show no gain." if full else "")
    if p_value > SURE:
        return "start", (f"No gain could be shown: of the held-out synthetic documents the trained model ranks {changed} "
                         f"(p = {p_value:.3f}). More documents, or more of them held out (`--held-out-share` of `train-reranker`, "
                         "`--reranker.held-out-share` of `run`), would tell more.")
    return "tuned", f"The trained model is better than its start on held-out synthetic documents (p = {p_value:.3f})."

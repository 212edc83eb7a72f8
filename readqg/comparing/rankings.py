"""What A and B give for a query: a re-ranker over what BM25 finds, BM25 itself, or a run that is there already."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Literal

import numpy as np

from readqg import devices, models, runs
from readqg.comparing.judgments import Shown, Side
from readqg.config import CompareConfig
from readqg.config.base import BM25
from readqg.corpus import Documents, read_texts
from readqg.crossencoder import CrossEncoderScorer
from readqg.errors import ConfigError, InputError, ModelError
from readqg.places import place_of
from readqg.retrieval import Bm25
from readqg.shards import fingerprint, stable_hash
from readqg.trying import trying

Kind = Literal["model", "run", "bm25"]
SIDES: tuple[Side, Side] = ("a", "b")
MAX_QUERY_CHARS = 1000


class Rankings:
    """Opens the inputs. Raises `InputError`, `ModelError` or `ConfigError` where one cannot be used, the two are the same, or a run
    has no query of `config.queries` or documents that are not in the corpus."""

    def __init__(self, config: CompareConfig) -> None:
        self.config = config
        self.kinds: dict[Side, Kind] = {side: _kind(self.name(side)) for side in SIDES}
        self.documents = Documents.open(config.documents)
        self._fingerprints = {side: self._fingerprint(side) for side in SIDES}
        if len({(self.kinds[side], self._fingerprints[side]) for side in SIDES}) == 1:
            raise ConfigError(f"a and b are the same ({config.a}, {config.b}): there is nothing to compare.")
        self._runs = {side: runs.read_run(self.name(side)) for side in SIDES if self.kinds[side] == "run"}
        self._scorers: dict[Side, CrossEncoderScorer] = {}
        self.queries = self._loaded()
        """In the order in which they are asked, drawn by a stable hash: so whoever stops early has judged a random sample."""
        self._check_runs()

    def name(self, side: Side) -> str:
        return self.config.a if side == "a" else self.config.b

    @property
    def typing(self) -> bool:
        """Whether any query can be ranked, not only those of a run."""
        return not self._runs

    def inputs(self) -> dict[str, str]:
        """Name -> fingerprint of what decides the rankings, less the models."""
        return {"documents": self.documents.fingerprint, **self._of("run"), **self._of("bm25")}

    def models(self) -> dict[str, str]:
        return self._of("model")

    def load(self) -> None:
        """Makes the index and the models; to be called before `rank`."""
        if "bm25" in self.kinds.values() or "model" in self.kinds.values():
            self._bm25.warn_of_own_ids(self.queries)
        if "model" in self.kinds.values():
            devices.set_threads(self.config.compute)
        for side in SIDES:
            if self.kinds[side] == "model":
                self._scorers[side] = self._scorer(self.name(side))

    def id_of(self, text: str) -> str:
        """Of a query that was typed: that of the loaded query with this text, or one made of it. Raises `InputError` for an empty or
        overlong one, and where runs know nothing of it."""
        text = " ".join(text.split())
        if not text or len(text) > MAX_QUERY_CHARS:
            raise InputError(f"a query has 1 to {MAX_QUERY_CHARS} characters; this one {len(text)}.")
        known = self._ids.get(text)
        if known is None and not self.typing:
            raise InputError("a run has no answer to a query of your own; compare two re-rankers to ask one.")
        return known or f"typed-{fingerprint(text)[:12]}"

    def rank(self, query_id: str, query: str, alive: Callable[[], None] = lambda: None) -> Shown:
        """Both rankings and their sides. `alive` is called after each batch that is scored; what it raises ends the work."""
        found = list(dict(self._bm25.search(query_id, query))) if self._runs.keys() != set(SIDES) else []
        texts = self.documents.texts(found) if self._scorers else []
        with trying(1.0, alive):
            a, b = (tuple(self._ranked(side, query_id, query, found, texts)[: self.config.shown]) for side in SIDES)
        return Shown(query_id=query_id, query=query, left=self.left_of(query_id), a=a, b=b)

    def left_of(self, query_id: str) -> Side:
        """Whose ranking of a query stands on the left: a coin thrown by a keyed hash, so that it falls the same after a restart, and
        anew for every pair: whoever has seen one comparison revealed knows nothing of the next."""
        return SIDES[stable_hash(" ".join((query_id, *self._fingerprints.values())), self.config.seed) & 1]

    def _ranked(self, side: Side, query_id: str, query: str, found: list[str], texts: list[str]) -> list[str]:
        if self.kinds[side] == "bm25":
            return found
        if self.kinds[side] == "run":
            scores = self._runs[side].get(query_id, {})
        else:
            logits = self._scorers[side].score([(query, text) for text in texts])
            if not np.isfinite(logits).all():
                raise ModelError(f"a model gives {logits[~np.isfinite(logits)][0]} for a document of this query; is it sound?")
            scores = dict(zip(found, logits.tolist(), strict=True))
        return [doc_id for doc_id, _ in runs.ranked(scores)]

    def _loaded(self) -> dict[str, str]:
        if self.config.queries is None:
            if self._runs:
                raise ConfigError("a run says which queries it answers by their ids: give their texts with --queries.")
            return {}
        texts = {query_id: " ".join(text.split()) for query_id, text in read_texts(self.config.queries).items() if text.strip()}
        for side, run in self._runs.items():
            asked = {*run, *(runs.read_queries_beside(self.name(side)) or ())}
            texts = {query_id: text for query_id, text in texts.items() if query_id in asked}
            if not texts:
                raise InputError(f"{self.name(side)} has no query of {self.config.queries} that can be asked: do they belong together?")
        return {query_id: texts[query_id] for query_id in sorted(texts, key=lambda q: (stable_hash(q, self.config.seed), q))}

    def _check_runs(self) -> None:
        """What would be shown must be in the corpus: once a query is shown, it stays as it is."""
        for side, run in self._runs.items():
            for query_id in self.queries:
                for doc_id, _ in runs.ranked(run.get(query_id, {}))[: self.config.shown]:
                    if doc_id not in self.documents:
                        raise InputError(f"{self.name(side)}, query {query_id!r}: {self.config.documents} has no document {doc_id!r}. "
                                         "Give --documents the corpus that the run was made on.")

    @cached_property
    def _ids(self) -> dict[str, str]:
        return {text: query_id for query_id, text in self.queries.items()}

    @cached_property
    def _bm25(self) -> Bm25:
        return Bm25(self.documents, self.config.retrieve)

    def _scorer(self, name: str) -> CrossEncoderScorer:
        device, dtype = devices.device_and_dtype(self.config.compute)
        return CrossEncoderScorer(models.resolve(name), self.config.max_length, self.config.batch_tokens, device, dtype)

    def _fingerprint(self, side: Side) -> str:
        match self.kinds[side]:
            case "model":
                return models.fingerprint(self.name(side))
            case "run":
                return runs.fingerprint(self.name(side))
            case "bm25":
                return "bm25"

    def _of(self, kind: Kind) -> dict[str, str]:
        return {side: self._fingerprints[side] for side in SIDES if self.kinds[side] == kind}


def _kind(name: str) -> Kind:
    if name == BM25:
        return "bm25"
    place = place_of(name)
    if place.is_file():
        return "run"
    if place.is_dir():
        return "run" if (place / "_config.json").exists() and not (place / "config.json").exists() else "model"
    return "model"

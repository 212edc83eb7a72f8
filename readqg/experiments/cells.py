"""One cell: from a collection to per-query figures of a recipe.

What cells have in common is made once: every stage's folder lies under OUT/shared and is named by a hash of its
settings and of the folders it reads, so two cells that ask for the same thing find it there. A cell itself keeps small files:

```
OUT/cells/COLLECTION/RECIPE/SEED/values.parquet   collection, recipe, seed, system, query_id, ndcg@10, recall@100
OUT/cells/COLLECTION/RECIPE/SEED/facts.json       what it was, what it cost, what the guard said; written last
```
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from readqg import api, models, runs
from readqg.clock import Clock
from readqg.config import SMOLLM2, DenseSettings, FewShotConfig, RetrieveConfig, RunConfig, TrainGeneratorConfig, identity, make
from readqg.corpus import read_judgments, write_qrels
from readqg.devices import machine
from readqg.errors import InputError
from readqg.evaluation.metrics import per_query
from readqg.experiments.bi_encoder import train_bi_encoder
from readqg.experiments.costs import operations
from readqg.experiments.guarding import OutsideStage, verdict, with_sources, write_asked
from readqg.experiments.matrix import Cell, package_prompts
from readqg.local import run_here
from readqg.places import Place
from readqg.reranker.averaging import average
from readqg.reranker.baseline import train_baseline
from readqg.reranker.selection import LOG_FILE, read_verdict
from readqg.shards import OutputFolder, appearing, fingerprint, open_input, read_json, stable_hash, write_whole
from readqg.steps import Steps

MEASURES = {"ndcg": "nDCG@10", "recall": "R@100"}
VALUES = pa.schema([
    ("collection", pa.string()), ("recipe", pa.string()), ("seed", pa.int64()), ("system", pa.string()), ("query_id", pa.string()),
    ("ndcg", pa.float64()), ("recall", pa.float64()),
])


@dataclass(frozen=True)
class CellFolder:
    """Where a cell's own files lie."""

    path: Place

    def facts(self) -> dict[str, Any] | None:
        """What a finished cell says of itself; None where it is not finished."""
        path = self.path / "facts.json"
        found: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
        return found

    def values(self) -> pa.Table:
        with (self.path / "values.parquet").open("rb") as file:
            return pq.read_table(file)

    def write(self, values: pa.Table, facts: dict[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        with appearing(self.path / "values.parquet") as partial:
            pq.write_table(values, partial, compression="zstd")
        write_whole(self.path / "facts.json", json.dumps(facts, indent=1, default=list) + "\n")
        self._failed.unlink(missing_ok=True)

    def fail(self, why: str) -> None:
        """Note that it was tried in vain."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self._failed, why + "\n")

    @property
    def has_failed(self) -> bool:
        return self._failed.exists()

    @property
    def _failed(self) -> Place:
        return self.path / "failed.txt"


def folder_of(out: Place, cell: Cell) -> CellFolder:
    return CellFolder(out / "cells" / cell.collection / cell.recipe / str(cell.seed))


def is_done(out: Place, cell: Cell) -> bool:
    """Whether the cell is there, as the matrix now asks for it."""
    facts = folder_of(out, cell).facts()
    return facts is not None and cell.is_what(facts["identity"])


def make_prompts(config: TrainGeneratorConfig | FewShotConfig | None, out: str) -> None:
    """Train prompts, or make them of examples."""
    if isinstance(config, FewShotConfig):
        api.few_shot(config.model_copy(update={"out": out}))
    elif config is not None:
        api.train_generator(config.model_copy(update={"out": out}))


def without_zeros(run: runs.Run, qrels: dict[str, dict[str, int]]) -> runs.Run:
    """A run less the documents that the judgments grade 0 for a query."""
    return {
        query: {doc: score for doc, score in found.items() if qrels.get(query, {}).get(doc) != 0} for query, found in run.items()}


class CellRun:
    """The folders of one cell, made as they are asked for."""

    def __init__(self, out: Place, cell: Cell) -> None:
        self.cell = cell
        self.shared = out / "shared"  # names say what a folder is made of, the corpus too
        self._spent: dict[str, tuple[str, float]] = {}
        self._prompts = None if cell.prompts is None else self.shared / self._named("prompts", cell.prompts, cell.prompts_made_of)
        self.config = cell.config if self._prompts is None else cell.config.model_copy(update={"prompts": str(self._prompts)})
        self.steps = Steps(self.config, self.shared / self._named("corpus", cell.source.source, cell.source.split, cell.config.documents))

    def run(self) -> tuple[pa.Table, dict[str, Any]]:
        """Per-query figures, and what the cell was and cost."""
        with self._timed("import", self.steps.corpus, self.steps.corpus / "documents"):
            self.steps.import_corpus()
        judgments = self._judgments()
        bm25 = self._place("bm25", self.config.retrieve, self.config.max_queries, self.cell.source.half)
        with self._timed("retrieve", bm25):
            self.steps.retrieve(bm25, str(judgments))
        first = self._first(bm25, str(judgments))
        start = self._ranked(first, self.config.start)
        model = self._model()
        searches = self.cell.settings.trainer == "bi_encoder"
        ranked = start if model is None else self._searched(model, str(judgments)) if searches else self._ranked(first, str(model))
        systems = {
            "bm25": bm25, "start": start, "start-fused": self._fused(start, bm25, self.steps.fusion_weight(model, "start")),
            "recipe": ranked, "recipe-fused": self._fused(ranked, bm25, self.steps.fusion_weight(model, "tuned")),
        }
        asked = set(runs.read_queries_beside(bm25) or ())
        qrels = {query: docs for query, docs in read_judgments(judgments).items() if query in asked}
        values = pa.concat_tables(self._values(name, place, qrels) for name, place in systems.items())
        return values, self._facts(model)

    def _first(self, bm25: Place, judgments: str) -> Place:
        dense = self.config.dense
        if self.config.candidates == "bm25":
            return bm25
        found = self._place("dense", bm25.name, dense, dense.encoder)
        with self._timed("retrieve", found):
            return self.steps.first_stage(bm25, found, self._place("first", found.name), judgments)

    def _judgments(self) -> Place:
        """The collection's judgments, of the half that is asked for: every second query in the order of a stable hash."""
        if self.steps.judgments is None:
            raise InputError(f"{self.cell.source.source} has no judgments ({self.cell.source.split}), so nothing can be measured on it.")
        half = self.cell.source.half
        whole = self.steps.corpus / "judgments"
        if half is None:
            return whole
        judged = read_judgments(whole)
        chosen = sorted(judged, key=lambda query: (stable_hash(query), query))[0 if half == "scan" else 1 :: 2]
        path = self.shared / f"{self.steps.corpus.name}-{half}.tsv"
        write_qrels(path, ((query, doc, grade) for query in sorted(chosen) for doc, grade in judged[query].items()))
        return path

    def _model(self) -> Place | None:
        """The tuned model, averaged with the start where the recipe says so; None for the start itself."""
        if not self.cell.settings.train:
            return None
        queries = self._written()
        for name, made_of, step in self.steps.passes():
            passed = self._place(name, queries.name, *made_of)
            with self._timed(name, passed):
                step(queries, passed)
            queries = passed
        tuned = self._trained(queries)
        self.tuned = tuned
        share = self.cell.settings.average
        if share is None:
            return tuned
        averaged = self._place("averaged", tuned.name, share)
        average(self.config.start, str(tuned), averaged, share)
        return averaged

    def _trained(self, queries: Place) -> Place:
        reranker, mining = self.config.reranker, self.cell.settings.mining
        if self.cell.settings.trainer == "sentence_transformers":
            tuned = self._place("baseline", queries.name, reranker, self.config.start, mining, mining.encoder)
            with self._timed("train", tuned):
                train_baseline(self.steps.train_config(queries, tuned), mining)
            return tuned
        if self.cell.settings.trainer == "bi_encoder":
            settings = self.cell.settings.bi_encoder
            tuned = self._place("bi-encoder", queries.name, reranker, self.config.start, settings, settings.encoder)
            with self._timed("train", tuned):
                train_bi_encoder(self.steps.train_config(queries, tuned), settings)
            return tuned
        replay = [reranker.replay] if reranker.replay else []
        tuned = self._place("reranker", queries.name, reranker, self.config.train, self.config.start, *replay)
        with self._timed("train", tuned):
            self.steps.train(queries, tuned)
        return tuned

    def _queries(self, config: RunConfig, stage: str = "generate") -> Place:
        """Generated queries, by prompts that are trained first where they are the recipe's own. `stage`: what their writing counts as."""
        if self._prompts is not None:
            with self._timed("prompts", self._prompts):
                make_prompts(self.cell.prompts, str(self._prompts))
        steps, chosen = Steps(config, self.steps.corpus), None
        if config.sampling == "coverage":
            chosen = self._place("chosen", config.coverage, config.coverage.encoder, config.max_documents)
            with self._timed("coverage", chosen):
                steps.choose(chosen)
        asked = steps.generate_config(self.shared / "unnamed", chosen)
        of = [chosen.name] if chosen else []
        prompts = package_prompts() if config.prompts is None else self._own_name(config.prompts)
        queries = self._place("queries", asked, prompts, asked.backbone, asked.max_documents, *of)
        with self._timed(stage, queries):
            steps.generate(queries, chosen)
        return queries

    def _written(self) -> Place:
        """Generated queries, or those that were written elsewhere."""
        if self.config.queries is None:
            return self._queries(self.config)
        queries = self._place("imported", self.config.queries)
        with self._timed("import-queries", queries):
            self.steps.import_queries(queries)
        return queries

    def _quality(self) -> dict[str, Any] | None:
        """What the generator's queries are like, over the whole grid."""
        if self.cell.grid is None:
            return None
        drawn = {"generate": self.cell.grid, "max_documents": self.cell.grid_documents, "sampling": "hash"}
        grid = self._queries(self.config.model_copy(update=drawn), "quality")
        place = self._place("quality", grid.name, self.cell.quality, self.cell.quality.judge, self.cell.quality.encoder)
        with self._timed("quality", place):
            return self.steps.quality(self.cell.quality, grid, place)

    def _outside(self, model: str) -> dict[str, Any] | None:
        """What the guard would say by queries of another generator, of the model that ranks; with BM25's score added (`fused`) too. None
        where no document is left for them."""
        settings = self.cell.guard
        if settings is None:
            return None
        examples = FewShotConfig(pairs=self.cell.pairs or "", out="", backbone=self.config.backbone or SMOLLM2, examples=settings.examples)
        prompts = self.shared / self._named("prompts", examples, {"pairs": self.cell.pairs, "backbone": examples.backbone})
        written = self._written()
        stage = OutsideStage(settings, self.steps.documents, open_input(written), self.config.compute)
        chosen = self._place("outside", stage.inputs(), settings, settings.encoder)
        generate = self.config.generate.model_copy(update={"relevances": (1.0,), "samples": 1, "temperature": settings.temperature})
        whole = {"generate": generate, "prompts": str(prompts), "max_documents": None, "sampling": "hash"}
        queries = self._place("queries", chosen.name, generate, prompts.name, examples.backbone)
        with self._timed("guard", chosen):
            run_here(stage, OutputFolder.begin(chosen, stage.name, settings.model_dump(), stage.inputs(), stage.models()))
        if not open_input(chosen).rows:  # queries were written for all
            return None
        with self._timed("guard", queries):
            make_prompts(examples, str(prompts))
            Steps(self.config.model_copy(update=whole), self.steps.corpus).generate(queries, chosen)
        asked = write_asked(queries, self._place("asked", queries.name))
        if asked is None:
            return None
        bm25 = self._place("bm25", asked.name, self.config.retrieve, settings.candidates)
        retrieve = self.config.retrieve.model_copy(update={"top_k": settings.candidates, "drop_self": False})
        places = {"documents": self.steps.documents, "queries": str(asked / "queries.jsonl"), "out": str(bm25)}
        with self._timed("guard", bm25):
            api.retrieve(make(RetrieveConfig, retrieve.model_dump(), places))
        bm25 = with_sources(bm25, asked, self.shared / f"{self._place('candidates', bm25.name).name}.trec")
        start, tuned = (self._ranked(bm25, ranker, "guard", str(asked / "queries.jsonl")) for ranker in (self.config.start, model))
        start_fused = self._fused(start, bm25, self.steps.fusion_weight(self.tuned, "start"))
        tuned_fused = self._fused(tuned, bm25, self.steps.fusion_weight(self.tuned, "tuned"))
        qrels = read_judgments(asked / "qrels.tsv")
        return {"plain": verdict(qrels, start, tuned), "fused": verdict(qrels, start_fused, tuned_fused)}

    def _ranked(self, first: Place, model: str, stage: str = "rank", queries: str | None = None) -> Place:
        """`queries`: other ones than the corpus's own."""
        place = self._place("ranked", first.name, self._own_name(model), self.config.rank)
        with self._timed(stage, place):
            self.steps.rank(first, model, place, queries)
        return place

    def _searched(self, model: Place, judgments: str) -> Place:
        """What a bi-encoder finds."""
        trained, retrieve = self.cell.settings.bi_encoder, self.config.retrieve
        settings = DenseSettings(encoder=str(model), pooling=trained.pooling, max_length=self.config.reranker.max_length)
        place = self._place("searched", model.name, settings, retrieve, self.config.max_queries, self.cell.source.half)
        with self._timed("rank", place):
            self.steps.retrieve_dense(settings, place, judgments)
        return place

    def _fused(self, run: Place, bm25: Place, weight: float) -> Place:
        place = self._place("fused", run.name, bm25.name, {"weight": weight})
        self.steps.fuse(run, bm25, place, weight)
        return place

    def _values(self, system: str, place: Place, qrels: dict[str, dict[str, int]]) -> pa.Table:
        run = runs.read_run(place)
        if self.cell.source.drop_zero:
            run = without_zeros(run, qrels)
        found = per_query(qrels, run, list(MEASURES.values()))
        ndcg, recall = (found[name] for name in MEASURES.values())
        rows = [
            {"collection": self.cell.collection, "recipe": self.cell.recipe, "seed": self.cell.seed, "system": system, "query_id": query,
             "ndcg": ndcg[query], "recall": recall[query]} for query in qrels
        ]
        return pa.Table.from_pylist(rows, VALUES)

    def _facts(self, model: Place | None) -> dict[str, Any]:
        judged = model is not None and self.cell.settings.trainer != "bi_encoder"
        said = read_verdict(self.tuned)[0] if judged else None
        quality, outside = self._quality(), self._outside(str(model)) if judged else None
        return {
            "cell": self.cell.name, "identity": self.cell.identity, "quality": quality, "seconds": self._seconds(),
            "operations": self._operations(), "machine": machine(self.config.compute), "weights": self._weights(),
            "trained_on": self._trained_on(model), "outside": outside, "model": model.name if model is not None else None,
            "tuned": self.tuned.name if model is not None else None,
            "guard": None if said is None else {
                "use": said.use, "difference": said.difference, "interval": said.interval, "p_value": said.p_value,
                "documents": said.held_out_documents},
        }

    def _trained_on(self, model: Place | None) -> dict[str, float] | None:
        """What its training counted, and where it has Eq. 6, means over the logged steps: of the loss (`eq_6`), and of the share of pairs
        that the model had in the right order already (`eq_6_right`); of a hinge that is never open nothing is learned."""
        if model is None:
            return None
        found: dict[str, float] = dict(read_json(self.tuned / "_SUCCESS")["facts"])
        if self.cell.settings.trainer == "readqg":
            log = [json.loads(line) for line in (self.tuned / LOG_FILE).read_text().splitlines()]
            steps = [line for line in log if "mr" in line]
            for name, logged in (("eq_6", "mr"), ("eq_6_right", "negative_accuracy")):
                found |= {name: sum(line[logged] for line in steps) / len(steps)} if steps else {}
        return found

    def _weights(self) -> dict[str, str]:
        """Model -> fingerprint of what was loaded: under one name there may be several, as the sample's, which were dequantised."""
        names = dict.fromkeys([self.config.start, *self.cell.backbones])
        return {name: models.fingerprint(name)[:12] for name in names}

    def _operations(self) -> dict[str, float] | None:
        """None for another's trainer, whose steps are not ours to count."""
        if not self.cell.settings.train or self.cell.settings.trainer != "readqg":
            return None
        return operations(self.config, self.steps.corpus, read_json(self.tuned / "_SUCCESS")["facts"]["steps"])

    def _own_name(self, model: str) -> str:
        """A folder of ours by its name, which says all that it was made of; another model as it was given."""
        return model.rsplit("/", 1)[-1] if model.startswith(str(self.shared)) else model

    def _place(self, kind: str, *made_of: Any) -> Place:
        return self.shared / self._named(kind, self.steps.corpus.name, *made_of)

    @staticmethod
    def _named(kind: str, *made_of: Any) -> str:
        return f"{kind}-{fingerprint([identity(m) if hasattr(m, 'model_dump') else m for m in made_of])[:12]}"

    @contextmanager
    def _timed(self, stage: str, place: Place, finished: Place | None = None) -> Iterator[None]:
        """Times the making of `place`; one that was there (`finished`: the folder in it that says so) keeps the time it took then. One
        that is asked for again counts once, as what it was asked for first."""
        clock = Clock(place.parent / f"_seconds-{place.name}.json")
        if ((finished or place) / "_SUCCESS").exists():
            yield
        else:
            with clock.stage(stage):
                yield
        self._spent[place.name] = (self._spent.get(place.name, (stage,))[0], sum(clock.seconds.values()))

    def _seconds(self) -> dict[str, float]:
        """By stage."""
        stages = dict.fromkeys(stage for stage, _ in self._spent.values())
        return {stage: round(sum(s for of, s in self._spent.values() if of == stage), 1) for stage in stages}

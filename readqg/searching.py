"""`readqg search`: a corpus searched as `readqg run` ranks: BM25's candidates, the re-ranker that the run names, BM25's score added."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from readqg import config as c
from readqg import runs
from readqg.corpus import Documents
from readqg.errors import ConfigError, InputError, ModelError
from readqg.excerpts import Piece, excerpt
from readqg.fusion import fuse
from readqg.places import Place, place_of
from readqg.ranking import RankStage
from readqg.retrieval import Bm25
from readqg.shards import write_whole
from readqg.steps import Steps
from readqg.words import Marker

log = logging.getLogger("readqg")


def search(config: c.SearchConfig) -> dict[str, Any]:
    """Print the best documents for each query, with the place of the text that holds most of its words, on standard error, and return
    `model`, `weight` (of BM25's score) and `rows`: query, rank, doc_id, score, title, text.

    Raises `ConfigError` without a query, `InputError` where the folder is no finished run's, `ModelError` for a model that cannot be
    loaded or gives no numbers."""
    if not config.query:
        raise ConfigError(f'What for? readqg search {config.folder} "heat in a boundary layer"')
    folder = place_of(config.folder)
    run, named = _run(folder)
    steps, tuned = Steps(run, folder / "corpus"), str(folder / "reranker")
    model = config.model or (tuned if named == "tuned" else run.start)
    weight = config.weight if config.weight is not None else _weight(steps, tuned, model)
    if run.candidates == "both":
        log.warning("The run's candidates are BM25's and a bi-encoder's; this search asks BM25 alone.")
    documents = Documents.open(steps.documents)
    log.info("Searching %d documents", len(documents))
    bm25 = Bm25(documents, run.retrieve.model_copy(update={"drop_self": False}))
    queries = {f"q{number}": text for number, text in enumerate(config.query, 1)}
    found = {query_id: dict(bm25.search(query_id, text)) for query_id, text in queries.items()}
    compute = run.compute.model_copy(update={} if config.threads is None else {"threads": config.threads})
    scores = _scored(run, compute.model_copy(update={"workers": 1}), model, documents, queries, found)
    rows = []
    for query_id, text in queries.items():
        ranked = runs.ranked(fuse(scores.get(query_id, {}), found[query_id], weight))[: config.shown]
        shown = documents.table([doc_id for doc_id, _ in ranked]).to_pylist()
        rows += [{"query": text, "rank": rank, "doc_id": doc_id, "score": score, "title": row["title"], "text": row["text"]}
                 for rank, ((doc_id, score), row) in enumerate(zip(ranked, shown, strict=True), 1)]
        _print(text, rows[-len(ranked):] if ranked else [])
    return {"model": model, "weight": weight, "rows": rows}


def _run(folder: Place) -> tuple[c.RunConfig, Literal["start", "tuned"]]:
    """The settings of a run, and which model it says to use."""
    path = folder / "summary.json"
    try:
        summary = json.loads(path.read_text())
        use = summary["guard"]["use"]
        if use not in ("start", "tuned"):
            raise ValueError(f"guard.use is {use!r}")
        return c.make(c.RunConfig, dict(summary["config"])), use
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise InputError(f"{folder} is not what a finished `readqg run` made ({path.name}: {type(error).__name__}: {error}). Give the "
                         "folder that was its --out; if it was stopped, the same command again ends it.") from error


def _weight(steps: Steps, tuned: str, model: str) -> float:
    """The one that is set; or what was learned for this model: the run's start, its tuned one, or another that carries its own."""
    of_start = model == steps.config.start
    return steps.fusion_weight(place_of(tuned if of_start else model), "start" if of_start else "tuned")


def _scored(
    run: c.RunConfig, compute: c.Compute, model: str, documents: Documents, queries: dict[str, str], found: dict[str, dict[str, float]],
) -> dict[str, dict[str, float]]:
    """query -> document -> logit, as `readqg rank` has them."""
    if not any(found.values()):
        return {}
    with TemporaryDirectory(prefix="readqg-search-") as work:
        lines = [json.dumps({"_id": query_id, "text": text}) + "\n" for query_id, text in queries.items()]
        write_whole(place_of(f"{work}/queries.jsonl"), "".join(lines))
        runs.write_trec(f"{work}/bm25.trec", found)
        places = {"run": f"{work}/bm25.trec", "queries": f"{work}/queries.jsonl", "out": f"{work}/ranked", "model": model,
                  "documents": str(documents.path), "compute": compute.model_dump()}
        stage = RankStage(c.make(c.RankConfig, run.rank.model_dump(), places))
        stage.load()
        ranked = [row for part in range(stage.total) for row in stage.compute(stage.prepare(stage.read(part))).to_pylist()]
    scores: dict[str, dict[str, float]] = {}
    for row in ranked:
        if row["error"] is None:
            scores.setdefault(row["query_id"], {})[row["doc_id"]] = row["score"]
    odd = [row for row in ranked if row["error"] is not None]
    if odd:
        told = f"{model}, document {odd[0]['doc_id']!r}: {odd[0]['error']}"
        if not scores:
            raise ModelError(f"{told}, and no other document has a score. Is the model sound?")
        log.warning("%s. It is left out, as are %d more.", told, len(odd) - 1)
    return scores


def _print(query: str, rows: Sequence[dict[str, Any]]) -> None:
    console = Console(stderr=True)
    console.print(Text(f"\n{_printable(query)}", style="bold"))
    if not rows:
        console.print("  no document shares a word with it")
    marker, table = Marker(query), Table.grid(padding=(0, 2))
    table.add_column(justify="right", min_width=3)
    table.add_column()
    for row in rows:
        short = excerpt(marker, row)
        lines = (_marked(short["title"]), Text(_printable(row["doc_id"]), style="dim"), _marked(short["short"]))
        table.add_row(str(row["rank"]), Text("\n").join(line for line in lines if line))
    console.print(table)


def _marked(pieces: Sequence[Piece]) -> Text:
    return Text.assemble(*((_printable(text), "bold" if marked else "") for text, marked in pieces))


def _printable(text: str) -> str:
    """Texts come from a corpus: no control characters that a terminal would obey, and one paragraph each."""
    return re.sub(" {2,}", " ", "".join(char if char.isprintable() else " " for char in text))

"""`readqg run --until-no-gain`: queries for as many documents as it takes.

A model is trained for `max_documents` documents, for twice as many, and so on, all judged on the same held-out documents: those that
a stable hash puts first, and it puts the documents that queries are written for in the same order. Where a doubling gains too little,
the size before it stays. One half of the held-out documents says so; by the other the guard judges the size that was chosen.

```
OUT/rounds/SIZE/{queries,...,reranker}   what was made for each size; those of the chosen one are moved to OUT
OUT/rounds/rounds.json                   what every size gained, written when the choice is made
```
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from readqg.config import RunConfig
from readqg.corpus import Documents
from readqg.errors import ConfigError, FolderError
from readqg.evaluation.charts import signed
from readqg.evaluation.significance import bootstrap_interval
from readqg.places import is_store
from readqg.reranker.selection import LOG_FILE, Validation, best_validation
from readqg.shards import write_whole
from readqg.steps import Steps

log = logging.getLogger("readqg")

ROUNDS_FILE = "rounds.json"
_FIRST = 128
_HELD_OUT = 4  # of the first size's documents one in so many is held out, from every size


@dataclass(frozen=True)
class Round:
    """One size. `start`, `score`: mean nDCG@10 of the start and of this size's model over the held-out documents that choose (`held_out`
    of them); `gain`: the mean difference to the size before (of the first: to the start), with its 95 % interval."""

    documents: int
    held_out: int
    start: float
    score: float
    gain: float
    low: float
    high: float


def grow(config: RunConfig, out: Path) -> tuple[RunConfig, list[Round]]:
    """The config with `max_documents` chosen, whose folders then lie in `out`, and all sizes that were tried. The same call goes on where
    it stopped. Raises `ConfigError` for a folder in a store, `FolderError` where the choice was made for other settings."""
    if is_store(config.out):
        raise ConfigError(f"--out {config.out}: until_no_gain works in a folder of a file system; copy it to the store when it is done.")
    asked = {"max_documents": config.max_documents, "least_gain": config.least_gain}
    documents = Documents.open(str(out / "corpus" / "documents")).rows
    sizes = _sizes(_first(config, documents), documents)
    path = out / "rounds" / ROUNDS_FILE
    if path.exists():
        found = json.loads(path.read_text())
        if found["asked"] != asked:
            raise FolderError(f"{path} was made with {found['asked']}, this command asks for {asked}. Give another --out.")
        chosen, rounds = found["chosen"], [Round(**line) for line in found["rounds"]]
    else:
        chosen, rounds = _tried(config, out, sizes)
        write_whole(path, json.dumps({"asked": asked, "chosen": chosen, "rounds": [asdict(r) for r in rounds]}, indent=1) + "\n")
    for folder in sorted((out / "rounds" / str(chosen)).glob("*/_SUCCESS")):
        folder.parent.rename(out / folder.parent.name)
    return _of_size(config, chosen, sizes[0]), rounds


def not_chosen(rounds: Path) -> list[Path]:
    """Of OUT/rounds, once the choice is made, the folders of the other sizes; none before, or where it holds something else."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        chosen = str(json.loads((rounds / ROUNDS_FILE).read_bytes())["chosen"])
        return sorted(path for path in rounds.iterdir() if path.name.isdigit() and path.name != chosen)
    return []


def _tried(config: RunConfig, out: Path, sizes: list[int]) -> tuple[int, list[Round]]:
    """(the size chosen, all that were tried)."""
    rounds: list[Round] = []
    before: Mapping[str, float] = {}
    for size in sizes:
        place = out / "rounds" / str(size)
        steps = Steps(_of_size(config, size, sizes[0]), out / "corpus")
        steps.write(place)
        steps.adapt(place)
        start, trained = _held_out(place / "reranker")
        rounds.append(_round(size, start, trained.ndcg, before or start.ndcg))
        last = rounds[-1]
        log.info("%d documents: nDCG@10 of %d held-out ones %.1f, %s (%s to %s) %s", size, last.held_out, 100 * last.score,
                 *(signed(100 * value) for value in (last.gain, last.low, last.high)),
                 f"on {rounds[-2].documents} documents" if before else "on the start")
        if before and last.gain < config.least_gain:
            return rounds[-2].documents, rounds
        before = trained.ndcg
    return rounds[-1].documents, rounds


def smallest(config: RunConfig, documents: int) -> RunConfig:
    """The settings of the first size, of so many documents in all."""
    return _of_size(config, first := _first(config, documents), first)


def _first(config: RunConfig, documents: int) -> int:
    return min(config.max_documents or _FIRST, documents)


def _sizes(first: int, documents: int) -> list[int]:
    sizes = [first]
    while sizes[-1] < documents:
        sizes.append(min(2 * sizes[-1], documents))
    return sizes


def _of_size(config: RunConfig, size: int, first: int) -> RunConfig:
    """The settings of one size. The share is so large that the number held out is the same at every size, a quarter of the first one."""
    most = max(1, min(config.reranker.held_out_max, first // _HELD_OUT))
    reranker = config.reranker.model_copy(update={"held_out_share": 0.5, "held_out_max": most, "judge_by_half": True})
    return config.model_copy(update={"max_documents": size, "reranker": reranker, "until_no_gain": False})


def _held_out(folder: Path) -> tuple[Validation, Validation]:
    """Start and trained model, on the half that choices are made by."""
    start, trained, _ = best_validation([json.loads(line) for line in (folder / LOG_FILE).read_text().splitlines()])
    return start.choosing(), trained.choosing()


def _round(size: int, start: Validation, now: Mapping[str, float], before: Mapping[str, float]) -> Round:
    differences = np.array([now[doc_id] - before[doc_id] for doc_id in now if doc_id in before])
    return Round(size, len(now), start.score, float(np.mean(list(now.values()))), float(differences.mean()),
                 *bootstrap_interval(differences))


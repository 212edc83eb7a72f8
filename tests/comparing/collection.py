"""A small collection, two tiny re-rankers that disagree, and a session over them."""

import json
from contextlib import contextmanager
from pathlib import Path

from readqg.comparing.judgments import Judgments
from readqg.comparing.rankings import Rankings
from readqg.comparing.session import Session
from readqg.config import CompareConfig, Compute
from tests.builders import WORDS, tiny_cross_encoder

HOSTILE = "<script>document.title = 'hacked'</script><img src=x onerror=\"document.title = 'hacked'\">"
QUERIES = {f"q{i:02}": f"{WORDS[1 + i % 7]} {WORDS[1 + (i // 2 + 3) % 7]} number {i}" for i in range(12)}


def write_collection(folder: Path, count: int = 40) -> Path:
    """documents.jsonl and queries.jsonl; a document's title is markup that would run, were it not shown as text."""
    rows = []
    for i in range(count):
        words = [WORDS[(i * 7 + k * (1 + i % 5)) % len(WORDS)] for k in range(6 + 13 * (i % 8))]
        rows.append({"_id": f"d{i:02}", "title": HOSTILE if i % 3 == 0 else f"On the {words[0]}", "text": " ".join(words)})
    (folder / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "queries.jsonl").write_text("".join(json.dumps({"_id": i, "text": text}) + "\n" for i, text in QUERIES.items()))
    for seed, name in enumerate("ab"):
        tiny_cross_encoder(folder / name, seed=seed)
    return folder


def config_of(folder: Path, **changes) -> CompareConfig:
    values = {
        "a": str(folder / "a"), "b": str(folder / "b"), "documents": str(folder / "documents.jsonl"),
        "queries": str(folder / "queries.jsonl"), "out": str(folder / "out"), "max_length": 60, "shown": 5, "port": 0,
        "compute": Compute(precision="fp32", threads=1), **changes,
    }
    return CompareConfig(**values)


@contextmanager
def session_of(folder: Path, **changes):
    config = config_of(folder, **changes)
    rankings = Rankings(config)
    Path(config.out).mkdir(exist_ok=True)
    with Judgments(Path(config.out)) as judgments:
        rankings.load()
        yield Session(config, rankings, judgments)

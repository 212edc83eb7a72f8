"""The commands of README.md run as they stand, in order, in one folder; with tiny models and sizes, since real ones take hours, and
with sensible queries in place of what a model without training writes."""

import json
import re
from pathlib import Path

import pytest
import yaml

from readqg import cli
from tests import pages
from tests.builders import centre, tiny_cross_encoder, tiny_models

README = pages.ROOT / "README.md"
# What serves a page and what that leaves, and what needs a hub, a cluster or a bucket: tests/comparing, test_pushing.py, cluster, stores.
ELSEWHERE = re.compile("^compare |mine/|^push |^submit |s3://")
STANDS_FOR = {"FOLDER": "collection", "QUERIES": "collection", "PASSAGES": "collection", "RUN": "bm25", "BACKBONE": "backbone",
              "google/flan-t5-base": "backbone", "cross-encoder/ms-marco-MiniLM-L12-v2": "start"}
PROMPTS = ["--prompts", "first-prompts", "--backbone", "backbone"]
COMPUTE = ["--compute.precision", "fp32", "--compute.max-error-share", "0.9"]
TRAINING = {"m": "1", "document-tokens": "32", "query-tokens": "12", "steps": "4", "held-out-documents": "4"}
MATRIX = "jobs/experiments/tiny.yaml"
QUERY = {"document-tokens": "32", "max-new-tokens": "6"}
TUNING = ["--trials", "1", "--rungs", "1", *COMPUTE]


def flags(values: dict[str, str], of: str = "") -> list[str]:
    return [word for name, value in values.items() for word in (f"--{of}{name}", value)]


SMALL = {
    "retrieve": ["--top-k", "30"],
    "generate": [*flags(QUERY), *PROMPTS, *COMPUTE],
    "train-reranker": ["--start", "start", "--epochs", "1", "--max-length", "48", *COMPUTE],
    "rank": ["--max-length", "48", *COMPUTE],
    "quality": ["--judge", "start", "--encoder", "none", "--max-length", "48", *COMPUTE],
    "label": ["--model", "teacher", "--max-length", "48", *COMPUTE],
    "pairs": ["--m", "1", "--partitions", "2"],
    "train-generator": [*flags(TRAINING), *COMPUTE],
    "ratio": [*PROMPTS, "--document-tokens", "32", "--query-tokens", "12", *COMPUTE],
    "tune generator": [*TUNING, "--min-distinct", "0", "--probe-new-tokens", "4", *flags(TRAINING, "generator.")],
    "tune reranker": [*TUNING, "--start", "start", "--reranker.epochs", "1", "--reranker.max-length", "48"],
    "tune pipeline": [*TUNING, "--start", "start", *PROMPTS, *flags(QUERY, "generate."), "--reranker.epochs", "1",
                      "--reranker.max-length", "48"],
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The flags with which `run` takes the tiny models that now lie in the working folder, with a collection and queries for it."""
    monkeypatch.chdir(tmp_path)
    flags_of_run = tiny_models(tmp_path)
    Path("prompts").rename("first-prompts")
    tiny_cross_encoder(tmp_path / "teacher", seed=1)
    Path("collection/qrels").mkdir(parents=True)
    words = ["wing", "flow", "boundary", "layer", "shock", "heat"]
    texts = [f"the {words[i % 6]} of {words[(i * 5 + 1) % 6]} is {words[i // 6]}" for i in range(36)]
    documents = [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(texts)]
    queries = [{"_id": f"q{i}", "text": f"what is {word}"} for i, word in enumerate(words)]
    made = [{"doc_id": f"d{i}", "query": f"what is the {words[i % 6]}"} for i in range(36)]
    both = [row | {"relevance": 1} for row in made]
    both += [row | {"query": f"{words[i % 5]} query", "relevance": 0} for i, row in enumerate(made)]
    for name, rows in (("collection/corpus", documents), ("collection/queries", queries), ("inpars", made), ("both", both)):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("collection/qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(f"q{i}\td{i}\t1\n" for i in range(6)))
    matrix = yaml.safe_load((pages.ROOT / MATRIX).read_text())
    matrix["collections"]["cranfield"]["source"] = "collection"
    matrix["run"] |= {
        "prompts": "first-prompts", "backbone": "backbone", "start": "start", "generate": {"document_tokens": 32, "max_new_tokens": 6},
        "reranker": {"epochs": 1, "max_length": 48}, "rank": {"max_length": 48},
        "compute": {"precision": "fp32", "max_error_share": 0.9}}
    Path(MATRIX).parent.mkdir(parents=True)
    Path(MATRIX).write_text(yaml.safe_dump(matrix, sort_keys=False))
    return ["first-prompts" if word == "prompts" else word for word in flags_of_run]


def as_it_runs(words: list[str], out: str, run: list[str]) -> list[str]:
    """A command with what is real for what stands for it, and small."""
    words = [STANDS_FOR.get(word, out if word == "OUT" else word) for word in words]
    command = " ".join(words[:2]) if words[0] == "tune" else words[0]
    small = run if command == "run" or (command == "plan" and "collection" in words) else SMALL.get(command, [])
    left_out = {"--prompts", "first-prompts"} if "--prompts" in words else {"--max-documents", "24"} if "--queries" in words else set()
    return words + [word for word in small if word not in left_out]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_command_of_the_readme_runs(run, ray_here, capsys):
    lines = [words for words in pages.command_lines(README) if not ELSEWHERE.search(" ".join(words))]
    assert len(lines) > 25
    for at, words in enumerate(lines):
        if words[0] == "label":
            command(capsys, [word.replace("scores", "rough") for word in as_it_runs(words, "", run)])
            centre(Path("teacher"), Path("rough"))
        words = as_it_runs(words, f"out-{at}", run)
        if words[0] == "generate" and "queries" in words:
            command(capsys, ["noise" if word == "queries" else word for word in words])
            words = ["import-queries", "--source", "both.jsonl", "--documents", "corpus/documents", "--out", "queries"]
        if words[0] == "train-reranker" and "--ratio-min" in words:
            words = [*words, "--ratio-min=-1e9"]
        command(capsys, words)


def command(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    said = capsys.readouterr()
    assert stop.value.code == 0, " ".join(words) + said.out[-1000:] + said.err[-3000:]
    assert not re.search("Traceback", said.out + said.err)

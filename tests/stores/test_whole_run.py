"""`readqg run` with everything in a bucket, by the command line on a local Ray of its own, training included."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from readqg import api
from readqg.config import VerifyConfig
from readqg.shards import open_input
from tests.stores.test_stages import upload, write_inputs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(inputs, out, cache) -> subprocess.CompletedProcess:
    flags = ["run", "--corpus", str(inputs / "raw"), "--out", str(out), "--prompts", str(inputs / "prompts"),
             "--backbone", str(inputs / "backbone"), "--start", str(inputs / "reranker"), "--generate.max-new-tokens", "6",
             "--generate.document-tokens", "16", "--generate.shard-rows", "8", "--reranker.epochs", "1", "--reranker.max-length", "48",
             "--rank.max-length", "48", "--retrieve.top-k", "8", "--documents.max-rejected-share", "0.1",
             "--compute.max-error-share", "0.5", "--compute.precision", "fp32", "--json"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu"}
    return subprocess.run([sys.executable, "-m", "readqg.cli", *flags], env=environment, cwd=Path(__file__).parents[2],
                          capture_output=True, text=True, check=False)


def test_a_run_lies_in_a_bucket_from_its_corpus_to_its_report(bucket, tmp_path):
    upload(write_inputs(tmp_path / "inputs"), bucket / "inputs")
    out, cache = bucket / "run", tmp_path / "cache"
    done = run(bucket / "inputs", out, cache)
    assert done.returncode == 0, done.stderr
    for name in ("corpus/documents", "corpus/queries", "corpus/judgments", "bm25", "queries", "reranker", "start", "tuned"):
        assert (out / name / "_SUCCESS").exists(), name
    assert open_input(out / "queries").rows == 48
    summary = json.loads((out / "summary.json").read_text())
    assert summary["report"] == f"{out}/report.html" and summary["evaluation"]["queries"] == 6
    assert "<html" in (out / "report.html").read_text()
    assert api.verify(VerifyConfig(folder=str(out)))["problems"] == 0
    assert any((out / "reranker" / "_tensorboard").iterdir()), "what trackers wrote is there too"
    assert not list((cache / "readqg" / "training").iterdir()), "the state of training is gone"
    names = {p.relative_to(out).as_posix() for p in out.rglob("*")}
    assert not [name for name in names if "/_attempts/" in name or "/_tmp/" in name or "_probe-" in name]

    before = {name: (out / name).version() for name in names if "part-" in name or name.endswith("_SUCCESS")}
    again = run(bucket / "inputs", out, cache)
    assert again.returncode == 0, again.stderr
    assert {name: (out / name).version() for name in before} == before, "the same command again changes nothing"


def test_a_shard_that_kills_its_worker_is_tried_again_from_its_mark_in_the_bucket(bucket, tmp_path):
    out = bucket / "squares"
    code = ("import sys; from readqg.engine import data; from tests.engine.toys import Squares, SquaresConfig; "
            "stage = Squares(deadly=9, deaths=2, marks=sys.argv[2]); data.run(stage, SquaresConfig(out=sys.argv[1]))")
    done = subprocess.run([sys.executable, "-c", code, str(out), str(tmp_path)], cwd=Path(__file__).parents[2], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert open_input(out).read()["square"].to_pylist() == [n * n for n in range(24) if n not in range(4, 8)]  # the toy has an empty shard
    assert len(list(tmp_path.glob("death-*"))) == 2
    assert json.loads((out / "_metrics" / "00002.json").read_text())["tries"] == 3
    assert not (out / "_attempts").exists()

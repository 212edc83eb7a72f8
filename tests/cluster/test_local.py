"""Jobs on a real cluster with a token, started and ended by cluster/local.sh: every script, the whole way, kills, nodes that
come and go. Only processes that the script started are ended."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from readqg import cli
from tests.builders import centre, tiny_bi_encoder, tiny_cross_encoder, tiny_llama
from tests.experiments.test_experiment import write as write_matrix
from tests.test_pipeline import place  # noqa: F401  (a fixture)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]
PORT, DASHBOARD = 7779, 8279
ADDRESS = f"http://127.0.0.1:{DASHBOARD}"
TINY = ["--compute.precision", "fp32", "--compute.max-error-share", "0.5"]


class Cluster:
    """What `cluster/local.sh` starts; more nodes are added and removed by their process ids."""

    def __init__(self, folder):
        self.folder, self.token = folder, folder / "token"
        self.settings = {**os.environ, "DIR": str(folder), "PORT": str(PORT), "DASHBOARD_PORT": str(DASHBOARD), "NODES": "2", "CPUS": "2",
                         "RAY": str(Path(sys.executable).with_name("ray"))}

    def script(self, command):
        done = subprocess.run([ROOT / "cluster" / "local.sh", *command.split()], env=self.settings, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def environment(self):
        return {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token), "NO_COLOR": "1"}

    def nodes(self):
        """Process ids of the nodes by their numbers."""
        return {int(p.stem.removeprefix("node-")): int(p.read_text()) for p in self.folder.glob("node-*.pid")}

    def add_node(self, number, ray=None):
        before = self.settings
        self.settings = {**before, **({"RAY": str(ray)} if ray else {})}
        self.script(f"add {number}")
        self.settings = before

    def remove_node(self, number):
        self.script(f"remove {number}")

    def start_job(self, *argv):
        return subprocess.Popen([sys.executable, "-m", "readqg.cli", "submit", *map(str, argv), "--address", ADDRESS], cwd=ROOT,
                                env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def job(self, *argv, code=0):
        process = self.start_job(*argv)
        log = process.communicate(timeout=900)[0]
        assert process.returncode == code, log[-4000:]
        return log


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    made = Cluster(tmp_path_factory.mktemp("c"))
    made.script("start")
    try:
        yield made
    finally:
        made.script("stop")


def summary_of(log):
    """The line of JSON that a job's log ends with."""
    return json.loads([line for line in log.splitlines() if line.startswith("{")][-1])


def whole_way(place, out, *more):  # noqa: F811
    return ["run", "--corpus", place / "corpus", "--out", out, "--grid-documents", "0", "--prompts", place / "prompts",
            "--backbone", place / "backbone", "--start", place / "start",
            "--generate.max-new-tokens", "6", "--generate.document-tokens", "16", "--generate.shard-rows", "4",
            "--reranker.epochs", "1", "--reranker.max-length", "48", "--rank.max-length", "48", "--retrieve.top-k", "10", *TINY, *more]


def verified(out):
    with pytest.raises(SystemExit) as stop:
        cli.main(["verify", str(out)])
    return stop.value.code == 0


def test_without_the_token_nobody_comes_in(cluster):
    import requests

    assert requests.get(f"{ADDRESS}/api/jobs/", timeout=60).status_code == 401
    wrong = {**cluster.environment, "RAY_AUTH_TOKEN_PATH": str(cluster.folder / "wrong")}
    (cluster.folder / "wrong").write_text("0" * 64)
    done = subprocess.run([sys.executable, "-m", "readqg.cli", "submit", "--attach", "x", "--address", ADDRESS], cwd=ROOT, env=wrong,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "is the token" in done.stderr and "Traceback" not in done.stderr


def test_the_whole_way_as_a_job_ends_with_a_summary_and_verifies(cluster, place, tmp_path):  # noqa: F811
    log = cluster.job(*whole_way(place, tmp_path / "run"))
    assert summary_of(log)["command"] == "run" and "\x1b" not in log
    assert verified(tmp_path / "run")
    token = cluster.token.read_text()
    assert token not in log
    holding = [p for p in (tmp_path / "run").rglob("*") if p.is_file() and token.encode() in p.read_bytes()]
    assert holding == []


def test_ctrl_c_leaves_the_job_and_attach_shows_it_whole(cluster, tmp_path):
    process = cluster.start_job("import", "--source", "readqg/sample/corpus", "--out", tmp_path / "corpus")
    seen = ""
    while "Running entrypoint" not in seen:
        line = process.stdout.readline()
        assert line, seen
        seen += line
    process.send_signal(signal.SIGINT)
    seen += process.communicate(timeout=120)[0]
    assert process.returncode == 130 and "The job goes on" in seen
    job = re.search(r"--attach (\S+)", seen)[1]
    log = cluster.job("--attach", job)
    assert summary_of(log)["documents"] == 1400 and "SUCCEEDED" in log


def test_a_job_that_fails_gives_its_exit_code(cluster, tmp_path):
    log = cluster.job("import", "--source", tmp_path / "absent", "--out", tmp_path / "o", code=1)
    assert "absent" in log and "FAILED" in log


def generate(place, out, *more):  # noqa: F811
    return ["generate", "--documents", place / "documents", "--out", out, "--prompts", place / "prompts", "--backbone", place / "backbone",
            "--document-tokens", "32", "--max-new-tokens", "32", "--shard-rows", "2", "--compute.workers", "2", *TINY, *more]


@pytest.fixture(scope="module")
def documents(cluster, place):  # noqa: F811
    cluster.job("import", "--source", place / "corpus", "--out", place / "imported")
    (place / "documents").symlink_to(place / "imported" / "documents")
    return place / "documents"


def rows(folder):
    return sorted(pq.read_table(folder).to_pylist(), key=lambda r: (r["doc_id"], r["relevance"]))


def wait_for_parts(out, count, process):
    deadline = time.monotonic() + 600
    while len(list(out.glob("part-*"))) < count:
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()[-3000:] if process.poll() is not None else ""
        time.sleep(0.1)


def nodes_at_work(out, process, count, known=frozenset()):
    """Ids of the nodes that had a shard in hand, once there are `count` with those `known`, or the job has ended."""
    found = set(known)
    while len(found) < count and process.poll() is None:
        for file in (out / "_attempts").glob("0*"):
            with contextlib.suppress(OSError, ValueError):  # done meanwhile
                found.add(json.loads(file.read_text())["node"])
        time.sleep(0.05)
    return found


@pytest.mark.usefixtures("documents")
def test_generation_goes_on_when_a_node_leaves_and_uses_another_that_comes(cluster, place, tmp_path):  # noqa: F811
    # Three workers, of which one node has room for two; and seconds a shard, for a node takes half a minute to go and one to come and work.
    slow = ["--shard-rows", "1", "--max-new-tokens", "300", "--samples", "20", "--batch-tokens", "1000", "--compute.workers", "3"]
    cluster.job(*generate(place, tmp_path / "quiet", *slow))
    process = cluster.start_job(*generate(place, tmp_path / "troubled", *slow))
    first = nodes_at_work(tmp_path / "troubled", process, 2)
    wait_for_parts(tmp_path / "troubled", 1, process)
    cluster.remove_node(1)
    cluster.add_node(2)
    later = nodes_at_work(tmp_path / "troubled", process, 3, first)
    log = process.communicate(timeout=900)[0]
    assert process.returncode == 0, log[-4000:]
    assert len(later) == 3, "the node that came had no shard in hand"
    assert rows(tmp_path / "troubled") == rows(tmp_path / "quiet")
    assert verified(tmp_path / "troubled")


@pytest.mark.usefixtures("documents")
def test_a_job_whose_driver_is_killed_is_submitted_again_and_goes_on(cluster, place, tmp_path):  # noqa: F811
    process = cluster.start_job(*generate(place, tmp_path / "out"))
    wait_for_parts(tmp_path / "out", 2, process)
    driver = next((tmp_path / "out" / "_tmp").iterdir()).name.split("-")[-2]  # host-pid-random
    os.kill(int(driver), signal.SIGKILL)
    process.communicate(timeout=600)
    assert process.returncode != 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("part-*")}
    cluster.job(*generate(place, tmp_path / "out"))
    assert before and all(p.stat().st_mtime_ns == changed for p, changed in before.items())
    assert verified(tmp_path / "out")


@pytest.mark.usefixtures("documents")
def test_an_output_that_a_node_does_not_see_is_refused_before_any_work(cluster, place, tmp_path):  # noqa: F811
    """A node with a file system of its own where the output is to lie."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("needs rights to hide a folder from a process")
    (tmp_path / "local").mkdir()
    wrapper = tmp_path / "bin" / "ray"
    wrapper.parent.mkdir()
    ray = cluster.settings["RAY"]
    wrapper.write_text(f"#!/bin/sh\nexec unshare -m sh -c 'mount -t tmpfs none {tmp_path}/local && exec {ray} \"$@\"' ray \"$@\"\n")
    wrapper.chmod(0o755)
    cluster.add_node(3, wrapper)
    try:
        log = cluster.job(*generate(place, tmp_path / "local" / "out"), code=1)
    finally:
        cluster.remove_node(3)
    assert "is not the same folder on every node: 1 of" in log and "NFS" in log
    assert not list((tmp_path / "local" / "out").glob("part-*"))


def test_every_script_runs_as_a_job(cluster, place, tmp_path):  # noqa: F811
    o = tmp_path
    llama, encoder, teacher = tiny_llama(o / "llama"), tiny_cross_encoder(o / "encoder"), tiny_cross_encoder(o / "teacher")
    tiny_bi_encoder(o / "bi-encoder")
    corpus, elsewhere = o / "corpus", o / "elsewhere.jsonl"
    with (place / "corpus" / "corpus.jsonl").open() as lines:
        elsewhere.write_text(json.dumps({"doc_id": json.loads(next(lines))["_id"], "query": "what is this about"}) + "\n")
    small = ["--m", "1", "--document-tokens", "32", "--query-tokens", "12", "--steps", "4", "--held-out-documents", "4"]
    nested = [f.replace("--", "--generator.") for f in small]
    jobs = {
        "import": ["--source", place / "corpus", "--out", corpus],
        "retrieve": ["--documents", corpus / "documents", "--queries", corpus / "queries", "--out", o / "bm25", "--top-k", "30"],
        "retrieve-dense": ["--documents", corpus / "documents", "--queries", corpus / "queries", "--encoder", o / "bi-encoder",
                           "--max-length", "48", "--top-k", "10", "--out", o / "dense"],
        "label": ["--candidates", o / "bm25" / "_run.trec", "--queries", corpus / "queries", "--documents", corpus / "documents",
                  "--model", teacher, "--max-length", "48", "--out", o / "scores"],
        "pairs": ["--scores", o / "scores", "--queries", corpus / "queries", "--documents", corpus / "documents", "--m", "1",
                  "--partitions", "2", "--out", o / "pairs"],
        "train-generator": ["--pairs", o / "pairs", "--backbone", llama, "--out", o / "prompts", *small],
        "generate": ["--documents", corpus / "documents", "--prompts", o / "prompts", "--backbone", llama, "--out", o / "queries",
                     "--document-tokens", "16", "--max-new-tokens", "6", "--compute.max-error-share", "0.9"],
        "coverage": ["--documents", corpus / "documents", "--encoder", o / "bi-encoder", "--max-documents", "4",
                     "--max-length", "48", "--out", o / "chosen"],
        "select": ["--queries", o / "queries", "--like", place / "corpus", "--out", o / "selected"],
        "ratio": ["--queries", o / "queries", "--documents", corpus / "documents", "--prompts", o / "prompts", "--backbone", llama,
                  "--document-tokens", "16", "--query-tokens", "8", "--out", o / "ratios"],
        "score-queries": ["--queries", o / "queries", "--documents", corpus / "documents", "--model", encoder, "--max-length", "48",
                          "--out", o / "scored"],
        "round-trip": ["--queries", o / "queries", "--documents", corpus / "documents", "--out", o / "back"],
        "import-queries": ["--source", elsewhere, "--documents", corpus / "documents", "--out", o / "imported"],
        "export": ["--queries", o / "queries", "--documents", corpus / "documents", "--format", "pairs", "--out", o / "exported"],
        "train-reranker": ["--queries", o / "queries", "--documents", corpus / "documents", "--start", encoder, "--out", o / "reranker",
                           "--epochs", "1", "--max-length", "48"],
        "rank": ["--run", o / "bm25", "--queries", corpus / "queries", "--documents", corpus / "documents", "--model", o / "reranker",
                 "--max-length", "48", "--out", o / "tuned"],
        "fuse": ["--run", o / "tuned", "--first", o / "bm25", "--out", o / "tuned-fused"],
        "few-shot": ["--pairs", o / "pairs", "--backbone", llama, "--examples", "1", "--out", o / "few-shot"],
        "quality": ["--queries", o / "queries", "--documents", corpus / "documents", "--judge", encoder, "--encoder", "none",
                    "--max-length", "48", "--out", o / "quality"],
        "tune-generator": ["--pairs", o / "pairs", "--backbone", llama, "--out", o / "tune-g", "--trials", "1", "--rungs", "1",
                           "--min-distinct", "0", "--probe-new-tokens", "4", *nested],
        "tune-reranker": ["--queries", o / "queries", "--documents", corpus / "documents", "--start", encoder, "--out", o / "tune-r",
                          "--trials", "1", "--reranker.epochs", "1", "--reranker.max-length", "48", "--rungs", "1"],
        "tune-pipeline": ["--documents", corpus / "documents", "--prompts", o / "prompts", "--backbone", llama, "--start", encoder,
                          "--out", o / "tune-p", "--trials", "1", "--rungs", "1", "--generate.max-new-tokens", "6",
                          "--generate.document-tokens", "16", "--reranker.epochs", "1", "--reranker.max-length", "48"],
        "experiment": ["--file", write_matrix(place, o, recipes=("as-it-is",)), "--out", o / "experiment"],
    }
    scripts = {re.search(r'job\("(.+)"\)', p.read_text())[1] for p in (ROOT / "jobs").glob("*.py") if p.name != "__init__.py"}
    assert set(jobs) == scripts - {"run"}
    for name, flags in jobs.items():
        if name == "label":
            cluster.job(name, *flags[:-1], o / "rough")
            centre(teacher, o / "rough")
        log = cluster.job(name, *flags)
        assert summary_of(log)["command"] == name and "\x1b" not in log
    assert verified(o)

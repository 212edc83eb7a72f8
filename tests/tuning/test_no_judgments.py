"""No search opens a test judgment: the system itself is asked, so that every process and every library counts."""

import ctypes
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from readqg import config as c
from readqg.corpus import read_judgments
from readqg.generator.backbone import Backbone
from readqg.generator.prompts import SoftPrompt
from tests.builders import tiny_cross_encoder, tiny_llama
from tests.generator.pairs import pair_row, write_pairs

ROOT = Path(__file__).parents[2]
_IN_OPEN, _IN_ACCESS = 0x20, 0x1

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's"), pytest.mark.timeout(1200)]


class Watch:
    """Names of the files below some folders that were opened or read by anybody since the watch began."""

    def __init__(self, *folders):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.handle = self.libc.inotify_init1(os.O_NONBLOCK)
        for folder in folders:
            for place in [folder, *(p for p in folder.rglob("*") if p.is_dir())]:
                assert self.libc.inotify_add_watch(self.handle, os.fsencode(place), _IN_OPEN | _IN_ACCESS) >= 0

    def seen(self):
        found = set()
        while True:
            try:
                data = os.read(self.handle, 1 << 16)
            except BlockingIOError:
                return found
            at = 0
            while at < len(data):
                *_, length = struct.unpack_from("iIII", data, at)
                name = data[at + 16:at + 16 + length].rstrip(b"\0").decode()
                found |= {name} if name else set()  # without a name: the folder itself was listed
                at += 16 + length


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A corpus with judgments, imported, and what every search needs."""
    import json

    folder = tmp_path_factory.mktemp("search")
    source = folder / "source"
    (source / "qrels").mkdir(parents=True)
    texts = [f"the {a} of the {b}" for a in ("wing", "flow", "heat") for b in ("layer", "shock", "boundary", "query")]
    (source / "corpus.jsonl").write_text("".join(json.dumps({"_id": f"d{i}", "title": "", "text": t}) + "\n" for i, t in enumerate(texts)))
    (source / "queries.jsonl").write_text(json.dumps({"_id": "q1", "text": "what is the wing"}) + "\n")
    (source / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td0\t1\n")
    run("import", "--source", source, "--out", folder / "corpus")
    llama = tiny_llama(folder / "llama")
    tiny_cross_encoder(folder / "encoder")
    prompts = SoftPrompt.initial(Backbone.load(llama), c.TrainGeneratorConfig(pairs="", out="", backbone=str(llama)), "none")
    (folder / "prompts").mkdir()
    prompts.save(folder / "prompts")
    write_pairs(folder / "pairs", [pair_row(i) for i in range(8)])
    run("generate", "--documents", folder / "corpus" / "documents", "--prompts", folder / "prompts", "--backbone", llama, "--out",
        folder / "queries", "--document-tokens", "16", "--max-new-tokens", "6", "--compute.max-error-share", "0.9")
    return folder


def run(*argv):
    done = subprocess.run([sys.executable, "-m", "readqg.cli", *map(str, argv)], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


def commands(place, out):
    documents, few = place / "corpus" / "documents", ["--trials", "1", "--rungs", "1", "--out", out]
    small = ["--reranker.epochs", "1", "--reranker.max-length", "48"]
    return {
        "generator": ["--pairs", place / "pairs", "--backbone", place / "llama", *few, "--min-distinct", "0", "--probe-new-tokens", "4",
                      "--generator.steps", "2", "--generator.held-out-documents", "3", "--generator.m", "2"],
        "reranker": ["--queries", place / "queries", "--documents", documents, "--start", place / "encoder", *few, *small],
        "pipeline": ["--documents", documents, "--prompts", place / "prompts", "--backbone", place / "llama", "--start", place / "encoder",
                     *few, *small, "--generate.document-tokens", "16", "--generate.max-new-tokens", "6"],
    }


@pytest.mark.parametrize("target", ["generator", "reranker", "pipeline"])
def test_no_judgment_file_is_opened_by_a_search(target, place, tmp_path):
    watch = Watch(place / "source" / "qrels", place / "corpus" / "judgments")
    run("tune", target, *commands(place, tmp_path / "out")[target])
    assert (tmp_path / "out" / "_best.yaml").exists()
    assert watch.seen() == set()
    read_judgments(place / "corpus" / "judgments")
    assert any(name.startswith("part-") for name in watch.seen()), "reading them would have been seen"

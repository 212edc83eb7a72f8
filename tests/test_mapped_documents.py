"""Documents of many parts, fetched by scattered ids: from a copy laid out for it once a machine, or, without one, from the parts."""

import fcntl
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pytest

from readqg.corpus import Documents, access, mapped
from readqg.errors import FolderError, InputError
from readqg.shards import OutputFolder
from readqg.stage import ShardResult

SCHEMA = pa.schema([("doc_id", pa.string()), ("title", pa.string()), ("text", pa.string())])
PARTS, ROWS = 130, 7
IDS = [f"d{n}" for n in range(PARTS * ROWS)]
FETCH = """
import logging, sys
logging.basicConfig(level=logging.INFO)
from readqg.corpus import Documents
print("ready", flush=True)
print(Documents.open(sys.argv[1]).texts([f"d{n}" for n in range(0, 910, 7)])[-1])
"""


def write_corpus(path, parts):
    folder = OutputFolder.begin(path, "import", {})
    for part in range(parts):
        numbers = range(part * ROWS, (part + 1) * ROWS)
        titles = [None if n % 5 == 0 else f"title {n}" * (n % 2) for n in numbers]
        rows = [{"doc_id": f"d{n}", "title": title, "text": f"text of {n} " * 3} for n, title in zip(numbers, titles, strict=True)]
        folder.commit(part, parts, ShardResult(pa.Table.from_pylist(rows, SCHEMA), ROWS, 0, 0))
    folder.finish(parts)
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpora") / "many", PARTS)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Empty, and of this test alone, as are the documents that this process holds open."""
    access._open_documents.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path / "cache" / "readqg" / "documents"
    access._open_documents.cache_clear()


def copies(cache):
    return [path for path in cache.glob("*") if path.is_dir()] if cache.exists() else []


def fetching(corpus, tmp_path, **kwargs):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    return subprocess.Popen([sys.executable, "-c", FETCH, str(corpus)], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs)


def test_the_copy_gives_what_the_parts_give(corpus, cache):
    rng = random.Random(0)
    asked = [rng.choice(IDS) for _ in range(500)]
    found = Documents.open(corpus)
    rows = [found.row(doc_id) for doc_id in asked]
    assert rows == [int(doc_id[1:]) for doc_id in asked] and not cache.exists()
    expected = found.take(rows)  # by numbers: from the parts
    assert not cache.exists() and None in expected["title"].to_pylist()
    table = found.table(asked)
    assert len(copies(cache)) == 1
    assert table.equals(expected) and table.schema == expected.schema
    other = pickle.loads(pickle.dumps(found))
    assert other.texts(asked) == [f"{row['title']} {row['text']}".strip() for row in expected.to_pylist()]
    assert [found.row(doc_id) for doc_id in IDS] == list(range(len(IDS))) and found.ids == IDS
    assert found.table([]).num_rows == 0


def test_a_process_that_comes_later_uses_the_copy_from_the_first_id_on(corpus, cache):
    Documents.open(corpus).texts(IDS)
    access._open_documents.cache_clear()
    again = Documents.open(corpus)
    assert again.texts(["d8"]) == ["text of 8 text of 8 text of 8"] and again.ids == IDS
    assert again._copy is not None and again._order is again._copy.order


def test_unknown_ids_are_the_same_error(corpus, cache):
    found = Documents.open(corpus)
    for _ in range(2):
        with pytest.raises(InputError, match=r"no document 'x' \(and 1 more\)"):
            found.texts(["d1", "x", "y"])
        found.texts(IDS)
    assert copies(cache) and "d1" in found and "x" not in found and "" not in found and "e" not in found


def test_what_lies_in_few_parts_needs_no_copy(corpus, cache, tmp_path):
    found = Documents.open(corpus)
    for _ in range(3):
        found.texts(IDS[: 64 * ROWS])
    found.take(range(len(IDS)))
    assert not cache.exists()
    found.texts(IDS[64 * ROWS : 64 * ROWS + 1])
    assert copies(cache)
    few = Documents.open(write_corpus(tmp_path / "few", 64))
    few.texts(IDS[: 64 * ROWS])
    assert len(copies(cache)) == 1


def test_what_is_read_in_turn_does_not_stay_in_memory(corpus, cache):
    """A worker that goes through a corpus once would hold 64 parts of it."""
    found = Documents.open(corpus)
    held = []
    before = pa.total_allocated_bytes()
    for first in range(0, len(IDS), 5):
        assert found.read(first, first + 5)["doc_id"].to_pylist() == IDS[first : first + 5]
        held.append(pa.total_allocated_bytes() - before)
    assert max(held) < 3 * max(held[:2])
    assert len(list(found)) == len(IDS) and pa.total_allocated_bytes() - before < 3 * max(held[:2])


def test_batches_are_bounded(corpus, cache, monkeypatch):
    expected = Documents.open(corpus).take(range(len(IDS)))
    monkeypatch.setattr(mapped, "_BATCH_BYTES", 2000)
    assert Documents.open(corpus).table(IDS).equals(expected)
    assert len(Documents.open(corpus)._copy.starts) > 10


def test_a_killed_build_is_never_used(corpus, cache, tmp_path):
    process = fetching(corpus, tmp_path)
    while not list(cache.glob(".*.making-*")):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not copies(cache)[1:]
    assert [path.name.startswith(".") for path in copies(cache)] == [True]
    assert Documents.open(corpus).texts(["d6", *IDS])[0] == "text of 6 text of 6 text of 6"
    assert [path.name.startswith(".") for path in copies(cache)] == [False], "the copy is made, and what the kill left is gone"


def test_of_two_processes_at_once_one_makes_the_copy(corpus, cache, tmp_path):
    cache.mkdir(parents=True)
    name = mapped._place(Documents.open(corpus)._folder).name
    with (cache / f".{name}.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        both = [fetching(corpus, tmp_path) for _ in range(2)]
        assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
        time.sleep(0.5)
        assert [process.poll() for process in both] == [None] * 2 and not copies(cache)
    outputs = [process.communicate(timeout=60) for process in both]
    assert {out for out, _ in outputs} == {"title 903 text of 903 text of 903 text of 903\n"}
    assert sum("is laid out once" in err for _, err in outputs) == 1
    assert len(copies(cache)) == 1


def test_where_there_is_no_room_the_parts_are_read_and_one_line_says_so(corpus, cache, monkeypatch, caplog):
    monkeypatch.setattr(mapped, "_ROW_BYTES", 1 << 50)
    found = Documents.open(corpus)
    for _ in range(3):
        assert found.texts(["d1", *IDS])[0] == "title 1 text of 1 text of 1 text of 1"
    assert len(caplog.records) == 1 and not copies(cache)
    assert "GB are needed and" in caplog.text and "XDG_CACHE_HOME" in caplog.text


def test_where_the_cache_cannot_be_written_the_parts_are_read(corpus, cache, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file in the way")
    assert Documents.open(corpus).texts(IDS)[1] == "title 1 text of 1 text of 1 text of 1"
    assert "XDG_CACHE_HOME" in caplog.text


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(corpus, cache, tmp_path):
    process = fetching(corpus, tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)))
    out, err = process.communicate(timeout=60)
    assert out == "ready\ntitle 903 text of 903 text of 903 text of 903\n", err
    assert "XDG_CACHE_HOME" in err and not copies(cache)


def test_a_damaged_copy_is_said_and_not_used(corpus, cache, caplog):
    Documents.open(corpus).texts(IDS)
    (copies(cache)[0] / "rows.arrow").write_bytes(b"no Arrow")
    access._open_documents.cache_clear()
    assert Documents.open(corpus).texts(IDS)[1] == "title 1 text of 1 text of 1 text of 1"
    assert str(copies(cache)[0]) in caplog.text


def test_a_damaged_part_is_an_error_as_ever(tmp_path, cache):
    corpus = write_corpus(tmp_path / "many", 70)
    found = Documents.open(corpus)
    part = sorted(corpus.glob("part-*"))[66]
    content = part.read_bytes()
    part.write_bytes(content[:100] + bytes(100) + content[200:])
    with pytest.raises(FolderError, match="cannot be read"):
        found.texts(IDS[: 70 * ROWS])
    assert not copies(cache)

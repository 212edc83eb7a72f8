"""The folder contract: commit once, resume, refuse, verify."""

import json
import os
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from readqg.errors import FolderError, InputError
from readqg.shards import OutputFolder, appearing, open_input, part_name, read_footer, stable_hash, verify
from readqg.stage import ShardResult

SCHEMA = pa.schema([("doc_id", pa.string()), ("n", pa.int64())])


def rows(*numbers: int) -> ShardResult:
    table = pa.table({"doc_id": [f"d{n}" for n in numbers], "n": list(numbers)}, SCHEMA)
    return ShardResult(table, inputs=len(numbers), errors=0, nothing=0, first_id="d", last_id="d")


@pytest.fixture
def folder(tmp_path):
    return OutputFolder.begin(tmp_path / "out", "test", {"seed": 0}, {"documents": "abc"})


def finished(folder, *shards):
    for index, shard in enumerate(shards):
        folder.commit(index, len(shards), shard)
    folder.finish(len(shards))
    return folder.path


def test_a_finished_folder_reads_back_in_order_across_parts(folder):
    path = finished(folder, rows(0, 1, 2), rows(), rows(3, 4))
    opened = open_input(path, ("doc_id", "n"))
    assert opened.rows == 5
    assert opened.read()["n"].to_pylist() == [0, 1, 2, 3, 4]
    assert opened.read(2, 4, ["n"])["n"].to_pylist() == [2, 3]
    assert pq.read_table(path)["n"].to_pylist() == [0, 1, 2, 3, 4], "plain readers skip what begins with _"


def test_the_footer_says_what_the_shard_holds(folder):
    finished(folder, rows(7))
    footer = read_footer(folder.path / part_name(0, 1))
    assert (footer["stage"], footer["inputs"], footer["rows"], footer["input"]) == ("test", 1, 1, folder.input_fingerprint)


def test_a_shard_is_committed_once_whoever_comes_second(folder):
    assert folder.commit(0, 1, rows(1))["committed"]
    before = (folder.path / part_name(0, 1)).read_bytes()
    late = OutputFolder(folder.path, "test", folder.input_fingerprint)
    assert not late.commit(0, 1, rows(2))["committed"]
    assert (folder.path / part_name(0, 1)).read_bytes() == before
    assert not list(late.tmp.glob("*")), "the second deletes its own try"


def test_of_many_writers_at_once_exactly_one_wins(folder):
    barrier, won = threading.Barrier(8), []

    def write(number: int) -> None:
        writer = OutputFolder(folder.path, "test", folder.input_fingerprint)
        barrier.wait()
        won.append(writer.commit(0, 1, rows(number))["committed"])

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert sum(won) == 1
    folder.finish(1)
    assert verify(folder.path) == []


def test_missing_lists_what_is_not_there(folder):
    folder.commit(1, 3, rows(1))
    assert folder.missing(3) == [0, 2]
    with pytest.raises(FolderError, match="4 shards"):
        folder.missing(4)


def test_finish_waits_for_every_shard(folder):
    folder.commit(0, 2, rows(1))
    with pytest.raises(FolderError, match="1 of 2 shards"):
        folder.finish(2)
    assert not folder.done


def test_a_changed_config_is_refused_with_the_difference(folder):
    with pytest.raises(FolderError, match=r"config\.seed: the folder has 0, this command 1"):
        OutputFolder.begin(folder.path, "test", {"seed": 1}, {"documents": "abc"})


def test_a_changed_input_is_refused_with_the_difference(folder):
    with pytest.raises(FolderError, match=r"inputs\.documents: the folder has 'abc', this command 'xyz'"):
        OutputFolder.begin(folder.path, "test", {"seed": 0}, {"documents": "xyz"})


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FolderError, match=r"thesis\.txt"):
        OutputFolder.begin(tmp_path, "test", {})


def test_an_unfinished_folder_is_no_input(folder):
    folder.commit(0, 1, rows(1))
    with pytest.raises(InputError, match="no _SUCCESS"):
        open_input(folder.path)


def test_a_lost_part_is_noticed_when_opening(folder):
    path = finished(folder, rows(1), rows(2))
    (path / part_name(1, 2)).unlink()
    with pytest.raises(InputError, match=part_name(1, 2)):
        open_input(path)


def test_an_input_without_a_column_names_those_it_has(folder):
    path = finished(folder, rows(1))
    with pytest.raises(InputError, match="no column query; it has doc_id, n"):
        open_input(path, ("query",))


@pytest.mark.parametrize("where", ["page", "footer", "magic"])
def test_verify_names_a_part_with_one_flipped_byte(folder, where):
    path = finished(folder, rows(*range(200)))
    part = path / part_name(0, 1)
    content = bytearray(part.read_bytes())
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    content[{"page": footer // 2, "footer": (footer + len(content)) // 2, "magic": len(content) - 1}[where]] ^= 0x10
    part.write_bytes(content)
    assert verify(path) == [f"{part}: its bytes have changed (sha256)"]


def test_verify_names_a_part_that_success_does_not_know(folder):
    path = finished(folder, rows(1))
    (path / part_name(5, 9)).write_bytes(b"x")
    assert verify(path) == [f"{path / part_name(5, 9)}: not named in _SUCCESS"]


def test_equal_rows_give_equal_bytes(tmp_path):
    parts = []
    for name in "ab":
        folder = OutputFolder.begin(tmp_path / name, "test", {}, {})
        parts.append((finished(folder, rows(*range(50))) / part_name(0, 1)).read_bytes())
    assert parts[0] == parts[1]


def test_a_model_folder_is_committed_with_the_hash_of_every_file(folder):
    made = folder.tmp / "model"
    (made / "sub").mkdir(parents=True)
    (made / "config.json").write_text("{}")
    (made / "sub" / "x.bin").write_bytes(b"x")
    success = folder.commit_files(made)
    assert set(success["files"]) == {"config.json", "sub/x.bin"}
    assert verify(folder.path) == []
    (folder.path / "config.json").write_text("{ }")
    assert "config.json" in verify(folder.path)[0]


def test_row_groups_are_kept_as_asked(folder):
    folder.commit(0, 1, rows(1, 2, 3, 4, 5), row_groups=[2, 0, 3])
    file = pq.ParquetFile(folder.path / part_name(0, 1))
    assert [file.metadata.row_group(i).num_rows for i in range(3)] == [2, 0, 3]


def test_a_full_disk_says_what_to_do(folder, monkeypatch):
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FolderError, match="disk is full"):
        folder.commit(0, 1, rows(1))
    monkeypatch.undo()
    assert folder.missing(1) == [0]
    assert folder.commit(0, 1, rows(1))["committed"], "the same shard can be tried again"


def test_a_damaged_config_is_said(folder):
    (folder.path / "_config.json").write_text("{")
    with pytest.raises(FolderError, match=r"_config\.json is damaged"):
        OutputFolder.begin(folder.path, "test", {"seed": 0}, {"documents": "abc"})


def test_metrics_lie_beside_the_parts_and_may_be_lost(folder):
    folder.commit(0, 1, rows(1), seconds=1.5)
    assert json.loads((folder.path / "_metrics" / "00000.json").read_text())["seconds"] == 1.5
    (folder.path / "_metrics" / "00000.json").unlink()
    folder.finish(1)
    assert verify(folder.path) == []


def test_the_stable_hash_is_the_same_everywhere():
    assert stable_hash("MED-10") == 3587246723696726586
    assert stable_hash("MED-10", seed=1) == 3005104802580799599


def test_two_that_write_one_small_file_do_not_share_what_they_write_to(tmp_path):
    target = tmp_path / "values.json"
    with appearing(target) as first, appearing(target) as second:  # as two hosts with a process of the same number
        first.write_text("first")
        second.write_text("second")
    assert target.read_text() == "first", "whole, of whoever was last"
    with pytest.raises(ValueError), appearing(target) as third:
        third.write_text("th")
        raise ValueError
    assert [p.name for p in tmp_path.iterdir()] == ["values.json"]


def test_a_corpus_given_for_one_of_its_folders_says_which_it_holds(tmp_path):
    for name in ("queries", "documents"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "_SUCCESS").write_text("{}")
    with pytest.raises(InputError, match=r"is a corpus: documents, queries\. Give the folder in it that is meant, such as .*/documents$"):
        open_input(tmp_path)

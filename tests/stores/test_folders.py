"""The folder contract in a store: commit once, resume, refuse, verify."""

import threading

import fsspec
import pyarrow as pa
import pytest
import s3fs

from readqg import api, places
from readqg.config import VerifyConfig
from readqg.errors import FolderError, InputError
from readqg.places import StorePath
from readqg.shards import OutputFolder, once, open_input, part_name, read_footer, verify
from readqg.shards.attempts import attempt, clear_attempts, under_way
from readqg.stage import ShardResult

SCHEMA = pa.schema([("doc_id", pa.string()), ("n", pa.int64())])


def rows(*numbers: int, value: int = 0) -> ShardResult:
    table = pa.table({"doc_id": [f"d{n}" for n in numbers], "n": [n + value for n in numbers]}, SCHEMA)
    ends = (f"d{numbers[0]}", f"d{numbers[-1]}") if numbers else ("", "")
    return ShardResult(table, inputs=len(numbers), errors=0, nothing=0, first_id=ends[0], last_id=ends[1])


@pytest.fixture
def folder(out):
    return OutputFolder.begin(out, "test", {"seed": 0}, {"documents": "abc"})


def finished(folder, *shards):
    for index, shard in enumerate(shards):
        folder.commit(index, len(shards), shard)
    folder.finish(len(shards))
    return folder.path


def test_a_finished_folder_reads_back_in_order_across_parts(folder):
    path = finished(folder, rows(0, 1, 2), rows(), rows(3, 4))
    opened = open_input(str(path), ("doc_id", "n"))
    assert opened.rows == 5
    assert opened.read()["n"].to_pylist() == [0, 1, 2, 3, 4]
    assert opened.read(2, 4, ["n"])["n"].to_pylist() == [2, 3]


def test_the_bytes_are_those_of_a_folder_on_disk(folder, tmp_path):
    local = OutputFolder.begin(tmp_path / "out", "test", {"seed": 0}, {"documents": "abc"})
    shards = [rows(*range(50)), rows(*range(50, 70))]
    path, beside = finished(folder, *shards), finished(local, *shards)
    for name in (part_name(0, 2), part_name(1, 2)):
        assert (path / name).read_bytes() == (beside / name).read_bytes()
    assert folder.success()["fingerprint"] == local.success()["fingerprint"]


def test_nothing_lies_there_but_what_the_contract_names(folder):
    path = finished(folder, rows(1))
    names = [p.relative_to(path).as_posix() for p in path.rglob("*")]
    assert names == ["_SUCCESS", "_config.json", "_metrics/00000.json", part_name(0, 1)]


def test_a_shard_is_committed_once_whoever_comes_second(folder):
    assert folder.commit(0, 1, rows(1))["committed"]
    late = OutputFolder(folder.path, "test", folder.input_fingerprint)
    assert not late.commit(0, 1, rows(1, value=7))["committed"]
    assert folder.finish(1)["counts"]["rows"] == 1
    assert open_input(folder.path).read()["n"].to_pylist() == [1]


def test_what_is_there_already_must_be_the_same_shard(folder):
    folder.commit(0, 1, rows(1))
    with pytest.raises(FolderError, match="from another input"):
        folder.commit(0, 1, rows(2))
    with pytest.raises(FolderError, match="from another input"):
        OutputFolder(folder.path, "test", "another").commit(0, 1, rows(1))


def test_what_is_there_already_and_is_no_part_is_said(folder):
    (folder.path / part_name(0, 1)).write_bytes(b"noise")
    with pytest.raises(FolderError, match="damaged or not a part"):
        folder.commit(0, 1, rows(1))


@pytest.mark.parametrize("race", range(5))
def test_of_many_writers_at_once_exactly_one_wins(folder, race):
    barrier, won = threading.Barrier(6), []

    def write(number: int) -> None:
        writer = OutputFolder(folder.path, "test", folder.input_fingerprint)
        barrier.wait()
        if writer.commit(0, 1, rows(1, 2, value=number))["committed"]:
            won.append(number)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(won) == 1
    folder.finish(1)
    assert open_input(folder.path).read()["n"].to_pylist() == [1 + won[0], 2 + won[0]]
    assert verify(folder.path) == []


def test_missing_lists_what_is_not_there(folder):
    folder.commit(1, 3, rows(1))
    assert folder.missing(3) == [0, 2]
    with pytest.raises(FolderError, match="4 shards"):
        folder.missing(4)


def test_a_changed_config_is_refused_with_the_difference(folder):
    with pytest.raises(FolderError, match=r"config\.seed: the folder has 0, this command 1"):
        OutputFolder.begin(folder.path, "test", {"seed": 1}, {"documents": "abc"})


def test_a_prefix_with_other_objects_is_refused(out):
    (out / "thesis.txt").write_bytes(b"mine")
    with pytest.raises(FolderError, match=r"thesis\.txt"):
        OutputFolder.begin(out, "test", {})


def test_an_unfinished_folder_is_no_input(folder):
    folder.commit(0, 1, rows(1))
    with pytest.raises(InputError, match="no _SUCCESS"):
        open_input(folder.path)


def test_a_lost_part_is_noticed_and_made_again(folder):
    path = finished(folder, rows(1), rows(2))
    (path / part_name(1, 2)).unlink()
    with pytest.raises(InputError, match=part_name(1, 2)):
        open_input(path)
    again = OutputFolder.begin(path, "test", {"seed": 0}, {"documents": "abc"})
    assert again.missing(2) == [1]
    again.commit(1, 2, rows(2))
    again.finish(2)
    assert verify(path) == []


@pytest.mark.parametrize("where", [0.3, 0.5, 0.999])
def test_verify_names_a_part_with_one_flipped_byte(folder, where):
    path = finished(folder, rows(*range(200)))
    part = path / part_name(0, 1)
    content = bytearray(part.read_bytes())
    content[int(len(content) * where)] ^= 0x10
    part.write_bytes(bytes(content))
    assert verify(path) == [f"{part}: its bytes have changed (sha256)"]
    with pytest.raises(FolderError, match="its bytes have changed"):
        api.verify(VerifyConfig(folder=str(path)))


def test_the_footer_is_read_from_the_store(folder):
    finished(folder, rows(7))
    assert read_footer(folder.path / part_name(0, 1))["first"] == "d7"


def test_a_model_is_uploaded_once_with_the_hash_of_every_file(folder, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "sub" / "x.bin").write_bytes(b"x")
    success = folder.commit_files(tmp_path)
    assert set(success["files"]) == {"config.json", "sub/x.bin"}
    assert verify(folder.path) == []


def test_a_model_that_another_half_uploaded_is_not_mixed_with(folder, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"mine")
    (folder.path / "config.json").write_bytes(b"{}")
    (folder.path / "model.safetensors").write_bytes(b"theirs")
    with pytest.raises(FolderError, match=r"model\.safetensors is there already"):
        folder.commit_files(tmp_path)
    assert not folder.done


def test_a_try_leaves_its_mark_only_where_it_died(folder):
    with attempt(folder.path, "run-1", 3) as first:
        first.note(2)
        assert [facts["row"] for facts in under_way(folder.path, "run-1").values()] == [2]
    assert under_way(folder.path, "run-1") == {}
    (folder.path / "_attempts" / "00003.1").write_bytes(b'{"run": "run-1", "host": "h", "oom_kills": null, "row": 2}')
    with attempt(folder.path, "run-1", 3) as second:
        assert second.path.name == "00003.2"
        assert [death["row"] for death in second.deaths] == [2]
    clear_attempts(folder.path, 3)
    assert list((folder.path / "_attempts").iterdir()) == []


def test_a_bucket_that_is_not_there_is_said(server):
    with pytest.raises(FolderError, match=r"s3://no-such-bucket-at-all: there is no such bucket"):
        OutputFolder.begin("s3://no-such-bucket-at-all/out", "test", {})


class Ignoring(s3fs.S3FileSystem):
    """Takes the condition and does not keep to it, as older servers do."""

    async def _pipe_file(self, path, data, mode="overwrite", **kwargs):
        return await super()._pipe_file(path, data, **kwargs)


class Looking(s3fs.S3FileSystem):
    """Looks first and writes then, as fsspec's own fallback does."""

    async def _pipe_file(self, path, data, mode="overwrite", **kwargs):
        if mode == "create" and await self._exists(path):
            raise FileExistsError(path)
        return await super()._pipe_file(path, data, **kwargs)


@pytest.mark.parametrize("store", [Ignoring, Looking])
def test_a_store_that_does_not_keep_to_conditions_is_refused(out, store):
    fsspec.register_implementation("s3", store, clobber=True)
    places._file_system.cache_clear()
    once._PROVEN.clear()
    try:
        with pytest.raises(FolderError, match="does not keep to conditional creates"):
            OutputFolder.begin(out, "test", {})
        assert list(out.rglob("*")) == [], "nothing is left of the races"
    finally:
        fsspec.register_implementation("s3", s3fs.S3FileSystem, clobber=True)
        places._file_system.cache_clear()


def test_the_store_is_proven_before_anything_is_written(out, monkeypatch):
    once._PROVEN.clear()
    seen = []
    monkeypatch.setattr(StorePath, "create", lambda self, content, create=StorePath.create: seen.append(self.name) or create(self, content))
    OutputFolder.begin(out, "test", {})
    assert len(seen) == 3 * 3 + 1 and seen[-1] == "_config.json" and all(name.startswith("_probe-") for name in seen[:-1])

"""Paths and stores under one name: what is supported, what is refused, and an object that appears once."""

import pickle
from importlib.metadata import PackageNotFoundError

import pytest

from readqg import places
from readqg.config import ImportConfig, RunConfig, make
from readqg.errors import ConfigError, FolderError
from readqg.places import StorePath, place_of


@pytest.mark.parametrize("url", ["http://host/x", "https://host/x", "az://container/x", "memory://x", "file:///x", "s3a://b/x", "gcs://b/x"])
def test_other_stores_are_refused_with_what_is_supported(url):
    with pytest.raises(ConfigError, match=r"s3://bucket/prefix or gs://bucket/prefix"):
        make(RunConfig, {"out": url})
    with pytest.raises(ConfigError, match="is not supported"):
        place_of(url)


def test_a_store_without_a_bucket_is_refused():
    with pytest.raises(ConfigError, match="names no bucket"):
        make(RunConfig, {"out": "s3://"})


def test_a_store_stands_in_a_config_as_it_was_given():
    config = make(ImportConfig, {"source": "s3://bucket/corpus/", "out": "gs://bucket//out"})
    assert (config.source, config.out) == ("s3://bucket/corpus", "gs://bucket/out")


def test_a_missing_package_names_the_extra(monkeypatch):
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(places, "version", absent)
    places._file_system.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'readqg\[gs\]'"):
        (place_of("gs://bucket/x")).exists()


def test_a_package_that_cannot_create_once_is_refused(monkeypatch):
    monkeypatch.setattr(places, "version", lambda name: "2024.10.0")
    places._file_system.cache_clear()
    with pytest.raises(ConfigError, match=r"s3fs 2024\.12 or newer.*found 2024\.10\.0"):
        place_of("s3://bucket/x").exists()
    places._file_system.cache_clear()


def test_a_store_path_names_what_a_path_would():
    path = place_of("s3://bucket/a/b") / "part-1.tar.gz"
    assert (path.name, path.stem, path.suffix, path.suffixes) == ("part-1.tar.gz", "part-1.tar", ".gz", [".tar", ".gz"])
    assert str(path.parent) == "s3://bucket/a/b"
    assert path.relative_to(path.bucket / "a").as_posix() == "b/part-1.tar.gz"
    assert path.bucket.parent == path.bucket == StorePath("s3://bucket/")
    assert pickle.loads(pickle.dumps(path)) == path


def test_objects_are_found_by_prefix_alone(out):
    (out / "a" / "x.txt").write_bytes(b"x")
    (out / "a" / "deep" / "y.txt").write_bytes(b"yy")
    (out / "ab.txt").write_bytes(b"z")
    assert [p.name for p in out.iterdir()] == ["a", "ab.txt"]
    assert [p.name for p in (out / "a").glob("*.txt")] == ["x.txt"]
    assert [p.name for p in out.rglob("*.txt")] == ["y.txt", "x.txt", "ab.txt"]
    assert (out / "a").is_dir() and not (out / "a").is_file() and (out / "a").exists()
    assert (out / "ab.txt").is_file() and not (out / "ab.txt").is_dir()
    assert not (out / "a" / "x").exists() and not (out / "nothing").exists()
    assert list((out / "nothing").iterdir()) == list((out / "nothing").rglob("*")) == []


def test_what_another_has_written_is_seen_at_once(out):
    assert list(out.iterdir()) == []
    (out / "x").write_bytes(b"1")
    assert [p.name for p in out.iterdir()] == ["x"]
    (out / "x").unlink()
    assert not (out / "x").exists()


def test_an_object_is_created_once(out, tmp_path):
    assert (out / "x").create(b"first")
    assert not (out / "x").create(b"second")
    file = tmp_path / "file"
    file.write_bytes(b"third")
    assert not (out / "x").create(file)
    assert (out / "x").read_bytes() == b"first"
    assert (out / "y").create(file) and (out / "y").read_bytes() == b"third"


@pytest.mark.parametrize("most", [256 << 20, 1 << 20], ids=["in one request", "in pieces"])
def test_a_large_file_is_created_once_too(out, tmp_path, monkeypatch, most):
    monkeypatch.setattr(places, "_ONE_REQUEST_BYTES", most)
    file = tmp_path / "large"
    file.write_bytes(bytes(101 << 20))
    assert (out / "x").create(file)
    assert not (out / "x").create(file)
    with (out / "x").open() as read:
        read.seek(100 << 20)
        assert len(read.read()) == 1 << 20


class Answers:
    """A store that answers with these HTTP errors, one a call, and then does as asked."""

    def __init__(self, *statuses: int) -> None:
        self.statuses, self.calls = list(statuses), 0

    def pipe_file(self, key: str, content: bytes, mode: str = "overwrite", chunksize: int = 0) -> None:
        self.calls += 1
        if self.statuses:
            error = OSError(5, "an error")
            error.__cause__ = cause = RuntimeError("the library's own")
            cause.response = {"ResponseMetadata": {"HTTPStatusCode": self.statuses.pop(0)}}
            raise error


def answering(monkeypatch, *statuses: int) -> Answers:
    store = Answers(*statuses)
    monkeypatch.setattr(places, "_file_system", lambda scheme, pid: store)
    monkeypatch.setattr(places.time, "sleep", lambda s: None)
    return store


def test_a_conflict_is_tried_again(monkeypatch):
    store = answering(monkeypatch, 409, 409)
    assert StorePath("s3://bucket/x").create(b"x")
    assert store.calls == 3


def test_a_conflict_that_the_other_writer_won_says_so(monkeypatch):
    answering(monkeypatch, 409, 412)
    assert not StorePath("s3://bucket/x").create(b"x")


def test_conflicts_without_end_are_an_error(monkeypatch):
    answering(monkeypatch, *[409] * 99)
    with pytest.raises(FolderError, match="other writers were in the way"):
        StorePath("s3://bucket/x").create(b"x")


def test_a_refusal_says_where_to_look(monkeypatch):
    answering(monkeypatch, 403)
    with pytest.raises(FolderError, match="AWS_PROFILE"):
        StorePath("s3://bucket/x").create(b"x")

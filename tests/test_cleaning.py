"""`readqg clean` removes what nobody needs, only when told to, and never what was committed."""

import os
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pytest

from readqg import cleaning, shards
from readqg.config import CleanConfig
from readqg.errors import ConfigError, InputError
from tests.builders import write_folder

OLD_S = time.time() - 3 * 24 * 3600


def old(path: Path) -> None:
    for file in (path, *path.rglob("*")):
        os.utime(file, (OLD_S, OLD_S))


@pytest.fixture
def run_folder(tmp_path):
    """A run's folder: one stage that is done, one that is not, each with leftovers."""
    root = tmp_path / "run"
    for name in ("done", "begun"):
        folder = write_folder(root / name, [{"x": 1}], pa.schema([("x", pa.int64())]))
        for leftover in ("_tmp/old/part", "_tmp/new/part", "_attempts/00000.1", "_train/checkpoint/state"):
            file = folder / leftover
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"x" * 1000)
        old(folder / "_tmp" / "old")
    (root / "begun" / "_SUCCESS").unlink()
    return root


def names(found, root):
    return {str(Path(file["path"]).relative_to(root)) for file in found["files"]}


def test_it_lists_and_removes_nothing_unless_told(run_folder):
    before = sorted(run_folder.rglob("*"))
    found = cleaning.clean(CleanConfig(folder=str(run_folder)))
    assert names(found, run_folder) == {"done/_tmp/old", "done/_attempts", "done/_train", "begun/_tmp/old"}
    assert (found["found"], found["bytes"], found["removed"]) == (4, 4000, 0)
    assert sorted(run_folder.rglob("*")) == before


def test_told_to_it_leaves_what_was_committed_and_what_a_command_goes_on_from(run_folder):
    assert cleaning.clean(CleanConfig(folder=str(run_folder), yes=True))["removed"] == 4
    assert shards.verify(run_folder / "done") == []
    assert not any((run_folder / "done" / name).exists() for name in ("_tmp/old", "_attempts", "_train"))
    assert (run_folder / "done" / "_tmp" / "new" / "part").exists(), "perhaps of a driver that is at work"
    kept = {str(p.relative_to(run_folder / "begun")) for p in (run_folder / "begun").rglob("*") if p.is_file()}
    assert {"_tmp/new/part", "_attempts/00000.1", "_train/checkpoint/state", "_config.json"} <= kept
    assert any(name.startswith("part-") for name in kept)
    assert cleaning.clean(CleanConfig(folder=str(run_folder)))["found"] == 0


def test_the_sizes_that_were_not_chosen_go_once_the_choice_is_made(run_folder):
    rounds = run_folder / "rounds"
    for size in ("128", "256", "512"):
        shutil.copytree(run_folder / "done", rounds / size / "queries")
    before = names(cleaning.clean(CleanConfig(folder=str(run_folder))), run_folder)
    assert {"rounds/128/queries/_train", "rounds/256/queries/_train"} < before and "rounds/256" not in before
    (rounds / "rounds.json").write_text('{"chosen": 256}')
    after = names(cleaning.clean(CleanConfig(folder=str(run_folder), yes=True)), run_folder)
    assert {name for name in after if name.startswith("rounds/")} == {"rounds/128", "rounds/512", "rounds/256/queries/_attempts",
                                                                       "rounds/256/queries/_train", "rounds/256/queries/_tmp/old"}
    assert {path.name for path in rounds.iterdir()} == {"256", "rounds.json"}


def test_files_not_written_to_their_end_go_after_a_day_wherever_they_lie_in_a_folder(run_folder):
    left = [run_folder / name for name in ("done/.values.parquet.12ab.partial", "done/_metrics/.00000.json.34cd.partial",
                                           "begun/_attempts/.00000.1.56ef.partial")]
    others = [run_folder / "begun" / "_metrics" / ".00001.json.78ab.partial", run_folder / ".run.trec.90cd.partial"]
    for file in (*left, *others):
        file.parent.mkdir(exist_ok=True)
        file.write_text("{")
    for file in (*left, others[1]):
        old(file)
    found = cleaning.clean(CleanConfig(folder=str(run_folder), yes=True))
    assert {str(file.relative_to(run_folder)) for file in left} < names(found, run_folder)
    assert found["found"] == 4 + len(left)
    assert not any(file.exists() for file in left)
    assert all(file.exists() for file in others), "one may be at work; one lies in no folder of ours"


def test_a_file_that_its_driver_takes_away_meanwhile_is_no_failure(run_folder, monkeypatch):
    walk = os.walk

    def walked(path):
        for folder, names, files in walk(path):
            yield folder, names, [*files, "committed since"]

    monkeypatch.setattr(os, "walk", walked)
    assert cleaning.clean(CleanConfig(folder=str(run_folder)))["bytes"] == 4000


def test_a_link_is_not_followed(run_folder, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("x")
    (run_folder / "linked").mkdir()
    shutil.copy(run_folder / "done" / "_config.json", run_folder / "linked")
    (run_folder / "linked" / "_SUCCESS").write_text("{}")
    (run_folder / "linked" / "_train").symlink_to(mine)
    cleaning.clean(CleanConfig(folder=str(run_folder), yes=True))
    assert (mine / "thesis.tex").exists()


def test_the_cache_gives_up_what_can_be_fetched_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("stores/used/model.safetensors", "stores/abc/model.safetensors", "training/fresh/_config.json",
                 "training/stale/_config.json", "models/m/config.json"):
        file = tmp_path / "readqg" / name
        file.parent.mkdir(parents=True)
        file.write_text("x")
    for name in ("training/stale", "stores/abc", "stores/used"):
        old(tmp_path / "readqg" / name)
    os.utime(tmp_path / "readqg" / "stores" / "used")  # as whatever reads it does
    found = cleaning.clean(CleanConfig(cache=True, yes=True))
    assert names(found, tmp_path / "readqg") == {"stores/abc", "training/stale"}
    assert (tmp_path / "readqg" / "models" / "m" / "config.json").exists() and (tmp_path / "readqg" / "training" / "fresh").exists()


def test_a_folder_that_is_not_readqgs_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no _config\.json"):
        cleaning.clean(CleanConfig(folder=str(tmp_path)))
    (tmp_path / "_train").mkdir()
    (tmp_path / "_SUCCESS").touch()
    for content in ("{}", "[]", "no JSON", '{"stage": "one of another program"}'):
        (tmp_path / "_config.json").write_text(content)
        with pytest.raises(InputError, match=r"no _config\.json of its own"):
            cleaning.clean(CleanConfig(folder=str(tmp_path), yes=True))
    with pytest.raises(InputError, match="no such folder"):
        cleaning.clean(CleanConfig(folder=str(tmp_path / "absent")))
    with pytest.raises(ConfigError, match="--cache"):
        cleaning.clean(CleanConfig())

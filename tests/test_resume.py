"""Parts that are lost, cut off or written by two at once: the same command mends the folder and touches nothing else."""

import os
import random
import subprocess

import pytest

from readqg.errors import FolderError
from readqg.local import run_here
from readqg.shards import OutputFolder, part_name, verify
from tests.engine.toys import Squares

SHARDS = 100


def run(out, stage=None):
    stage = stage or Squares(shards=SHARDS)
    return run_here(stage, OutputFolder.begin(out, stage.name, {"seed": 0}, stage.inputs()))


def standing(out):
    """Name -> what would change if a part were written again."""
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in out.glob("part-*")}


@pytest.mark.parametrize("has_success", [True, False])
@pytest.mark.parametrize("percent", [1, 10, 50, 90, 99])
def test_exactly_the_parts_that_were_deleted_come_back(tmp_path, percent, has_success):
    first = run(tmp_path / "out")
    content = {p.name: p.read_bytes() for p in (tmp_path / "out").glob("part-*")}
    before = standing(tmp_path / "out")
    deleted = random.Random(percent).sample(sorted(before), SHARDS * percent // 100)
    for name in deleted:
        (tmp_path / "out" / name).rename(tmp_path / name)  # so that no new file can have the old one's inode
    if not has_success:
        (tmp_path / "out" / "_SUCCESS").unlink()
    again = run(tmp_path / "out")
    after = standing(tmp_path / "out")
    assert {name for name in after if after[name] != before[name]} == set(deleted)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").glob("part-*")} == content
    assert again == first
    assert verify(tmp_path / "out") == []


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_part_that_was_cut_off_is_named_and_mended_once_deleted(tmp_path, keep):
    run(tmp_path / "out", Squares())
    part = tmp_path / "out" / part_name(3, 6)
    whole = part.read_bytes()
    part.write_bytes(whole[: int(len(whole) * keep)])
    assert verify(tmp_path / "out") == [f"{part}: its bytes have changed (sha256)"]
    (tmp_path / "out" / "_SUCCESS").unlink()
    with pytest.raises(FolderError, match=f"{part.name} is damaged"):
        run(tmp_path / "out", Squares())
    part.unlink()
    run(tmp_path / "out", Squares())
    assert part.read_bytes() == whole


def test_drivers_at_once_on_one_folder_write_every_part_once(tmp_path):
    expected = run(tmp_path / "alone")
    drivers = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                run(tmp_path / "out")
                code = 0
            finally:
                os._exit(code)
        drivers.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in drivers] == [0] * 4
    assert run(tmp_path / "out") == expected
    assert verify(tmp_path / "out") == []
    assert sorted(p.name for p in (tmp_path / "out").glob("part-*")) == sorted(expected["parts"])


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    try:
        if os.geteuid() != 0 or subprocess.run(mounting, capture_output=True).returncode:
            pytest.skip("a small file system can be mounted by root only")
    except FileNotFoundError:
        pytest.skip("no mount here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_full_at_any_write_costs_nothing_that_is_done(small_disk, tmp_path):
    run(tmp_path / "elsewhere", Squares())
    filler, page, refused = small_disk / "filler", 4096, 0
    for free_pages in range(64):
        filler.write_bytes(b"")
        left = os.statvfs(small_disk).f_bavail
        filler.write_bytes(b"x" * page * max(0, left - free_pages))  # the disk's blocks are pages, too
        try:
            run(small_disk / "out", Squares())
            break
        except FolderError as error:
            assert "disk is full" in str(error)
            refused += 1
    assert refused > 3, "more than one write was hit"
    assert verify(small_disk / "out") == []
    for i in range(6):
        assert (small_disk / "out" / part_name(i, 6)).read_bytes() == (tmp_path / "elsewhere" / part_name(i, 6)).read_bytes()

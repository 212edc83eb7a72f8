"""Whatever is killed while a stage writes into a bucket, and whenever: the same command goes on, and what lies there is what an
undisturbed run writes on a disk, byte for byte.

Long campaigns: `pytest -m chaos tests/stores/test_kills_on_stores.py --rounds 200 --chaos-seed 5 -s` does a quarter of so many kills.
"""

import random

import pytest

from tests.chaos.harness import Tally, disturbed, undisturbed
from tests.chaos.works import WORKS, write_corpus

pytestmark = pytest.mark.chaos

STAGES = ("label", "generate")


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", STAGES)
def test_kills_leave_in_a_bucket_what_an_undisturbed_run_leaves_on_disk(name, bucket, tmp_path, request, capsys):
    kills = -(-request.config.getoption("rounds") // (4 * len(STAGES)))
    args = WORKS[name](write_corpus(tmp_path))
    expected = undisturbed(args, tmp_path / "undisturbed")
    tally = Tally()
    draw = random.Random(f"{request.config.getoption('chaos_seed')} {name} in a bucket")
    disturbed(args, expected, bucket / name, tmp_path, kills, draw, tally)
    with capsys.disabled():
        print(f"\n{name}, into a bucket: {tally.said(len(expected))}")
    assert tally.clean(), tally

"""Whatever is killed, and whenever: the same command goes on, and what comes out is what an undisturbed run writes, byte for byte.

Long campaigns: `pytest -m chaos tests/chaos/test_chaos.py --rounds 200 --chaos-seed 5 -s`.
"""

import random

import pytest

from tests.chaos.harness import Tally, disturbed, undisturbed
from tests.chaos.works import WORKS, write_corpus

pytestmark = pytest.mark.chaos


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", WORKS)
def test_kills_lose_nothing_double_nothing_and_change_nothing(name, tmp_path, request, capsys):
    kills = -(-request.config.getoption("rounds") // len(WORKS))
    args = WORKS[name](write_corpus(tmp_path))
    expected = undisturbed(args, tmp_path / "undisturbed")
    tally = Tally()
    disturbed(args, expected, tmp_path, tmp_path, kills, random.Random(f"{request.config.getoption('chaos_seed')} {name}"), tally)
    with capsys.disabled():
        print(f"\n{name}: {tally.said(len(expected))}")
    assert tally.clean(), tally

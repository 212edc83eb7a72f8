"""A node of a two-node cluster is lost while it works, and another comes: nothing is lost, doubled or different."""

import os
import random
import time

import pytest

from tests.chaos.harness import Command, Tally, add_node, undisturbed
from tests.chaos.works import WORKS, write_corpus

pytestmark = [pytest.mark.chaos, pytest.mark.cluster, pytest.mark.timeout(1500)]


@pytest.mark.parametrize("name", ["label", "pairs"])
def test_a_lost_node_loses_nothing_doubles_nothing_and_changes_nothing(name, tmp_path, cluster, request, capsys):
    draw = random.Random(f"{request.config.getoption('chaos_seed')} node {name}")
    args = WORKS[name](write_corpus(tmp_path))
    expected = undisturbed(args, tmp_path / "undisturbed")
    second, lost, commands, out = add_node(cluster), 0, 0, tmp_path / "out"
    while True:
        command = Command([*args, "--compute.ray-address", cluster.address, "--compute.workers", "2"], out, tmp_path / "out.log")
        commands += 1
        while command.running and lost < 2:
            there = len(list(out.rglob("part-*")))
            while command.running and len(list(out.rglob("part-*"))) < there + draw.randint(1, 6):
                time.sleep(0.05)
            time.sleep(draw.uniform(0, 0.5))
            if command.running:
                cluster.remove_node(second, allow_graceful=False)
                lost += 1
                time.sleep(draw.uniform(0, 3))
                second = add_node(cluster)
        if command.end(timeout_s=600) == 0:
            break
        assert lost and commands <= 3, command.said
    tally = Tally()
    tally.compare(expected, out)
    with capsys.disabled():
        print(f"\n{name}: {lost} nodes lost, {commands} commands: lost {tally.lost}, doubled {tally.doubled}, different {tally.different}")
    assert lost and tally.clean(), (tally, os.listdir(out))

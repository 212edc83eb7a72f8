"""A node of a two-node cluster is lost while it works, and another comes: nothing is lost, doubled or different, in shards or in a
search."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.chaos.harness import Command, Tally, add_node, die_with_parent, undisturbed
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


SEARCH = """
import json, sys
import ray
from readqg.config import make
from readqg.engine import tune
from tests.engine import toys
ray.cloudpickle.register_pickle_by_value(toys)
settings = make(toys.HillConfig, json.loads(sys.argv[1]))
tune.search(toys.Hill(settings), settings)
"""


def under_way(root, node):
    """Trials without a result that were begun on a node."""
    return [path.parent for path in root.glob("*/node") if path.read_text() == node and not (path.parent / "result.json").exists()]


def test_a_search_that_loses_a_node_loses_no_trial(tmp_path, cluster):
    """One of its two trials at a time is on that node: the head has room for one."""
    second, root = add_node(cluster), tmp_path / "out" / "_trials"
    settings = {"out": str(tmp_path / "out"), "trials": 16, "rungs": 3, "pause_s": 2.0,
                "compute": {"ray_address": cluster.address, "workers": 2}}
    with (tmp_path / "log").open("wb") as log:
        search = subprocess.Popen([sys.executable, "-c", SEARCH, json.dumps(settings)], stdout=log, stderr=log,
                                  cwd=Path(__file__).parents[2], preexec_fn=die_with_parent)
    results = {}
    for wanted in (2, 8):
        while len(list(root.glob("*/result.json"))) < wanted:
            assert search.poll() is None, (tmp_path / "log").read_text()[-3000:]
            time.sleep(0.1)
        for path in root.glob("*/result.json"):
            results.setdefault(path, path.read_text())
        while not under_way(root, second.node_id):
            assert search.poll() is None, (tmp_path / "log").read_text()[-3000:]
            time.sleep(0.1)
        cluster.remove_node(second, allow_graceful=False)
        time.sleep(1)
        second = add_node(cluster)
    assert search.wait(timeout=600) == 0, (tmp_path / "log").read_text()[-3000:]
    assert all(path.read_text() == text for path, text in results.items())
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert len(rows) == 16 and all(row["status"] in ("finished", "stopped") for row in rows), rows

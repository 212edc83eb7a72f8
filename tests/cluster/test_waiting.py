"""A cluster whose head runs no work, and whose workers come when they are asked for."""

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

# Both in processes of their own, for Ray remembers what a process has been told of tokens.
CLUSTER = """
import sys
from readqg.engine import cluster
from ray.cluster_utils import Cluster
made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
print(made.address, flush=True)
sys.stdin.readline()
made.add_node(num_cpus=2)
sys.stdin.readline()
made.shutdown()
"""
STAGE = """
import logging, sys
from readqg.config import Compute
from readqg.engine import cluster
logging.basicConfig(level=logging.INFO, format="%(message)s")
with cluster.connect(Compute(ray_address=sys.argv[1])):
    print(cluster.model_cpus(1))
"""


def test_a_stage_waits_for_the_first_worker_of_a_cluster_that_is_a_head_alone(tmp_path):
    (tmp_path / "token").write_text(secrets.token_hex(32))  # nodes have this machine's address, off loopback
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}

    def start(code, *args, **pipes):
        return subprocess.Popen([sys.executable, "-c", code, *args], env=environment, cwd=Path(__file__).parents[2], text=True,
                                stdout=subprocess.PIPE, **pipes)

    with start(CLUSTER, stdin=subprocess.PIPE) as cluster:
        try:
            stage = start(STAGE, cluster.stdout.readline().strip(), stderr=subprocess.PIPE)
            assert any("no node that runs work: one is asked for, and waited for" in line for line in stage.stderr)
            assert stage.poll() is None
            cluster.stdin.write("a node\n")
            cluster.stdin.flush()
            out, err = stage.communicate(timeout=200)
            assert stage.returncode == 0 and float(out) == 1.0, err
        finally:
            cluster.communicate("\n\n", timeout=60)

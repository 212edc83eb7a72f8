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
node = made.add_node(num_cpus=2)
sys.stdin.readline()
made.remove_node(node)
print("gone", flush=True)
sys.stdin.readline()
made.add_node(num_cpus=2)
sys.stdin.readline()
made.shutdown()
"""
STAGE = """
import logging, sys
import ray
from readqg.config import Compute
from readqg.engine import cluster
logging.basicConfig(level=logging.INFO, format="%(message)s")
compute = Compute(ray_address=sys.argv[1] if sys.argv[1:] else None)
with cluster.connect(compute):
    print(cluster.model_cpus(1), ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.readline()
    with cluster.connect(compute):  # as the next stage of a whole run does
        print(cluster.model_cpus(1))
"""


def test_every_stage_waits_for_a_worker_where_the_cluster_is_a_head_alone(tmp_path):
    (tmp_path / "token").write_text(secrets.token_hex(32))  # nodes have this machine's address, off loopback
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}

    def start(code, *args, more=(), **pipes):
        return subprocess.Popen([sys.executable, "-c", code, *args], env={**environment, **dict(more)}, cwd=Path(__file__).parents[2],
                                text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **pipes)

    def go_on(process):
        process.stdin.write("\n")
        process.stdin.flush()

    def asks(stage):
        return any("no node that runs work: one is asked for, and waited for" in line for line in stage.stderr)

    with start(CLUSTER) as cluster:
        try:
            address = cluster.stdout.readline().strip()
            stage = start(STAGE, address, stderr=subprocess.PIPE)
            assert asks(stage) and stage.poll() is None
            go_on(cluster)
            assert stage.stdout.readline() == f"1.0 {address}\n"
            go_on(cluster)
            assert cluster.stdout.readline() == "gone\n"
            go_on(stage)
            assert asks(stage) and stage.poll() is None
            go_on(cluster)
            out, err = stage.communicate(timeout=200)
            assert stage.returncode == 0 and out == "1.0\n", err
            in_a_job = start(STAGE, more={"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}", "RAY_ADDRESS": address}.items())
            assert in_a_job.communicate("\n", timeout=200)[0] == f"1.0 {address}\n1.0\n", "which is the job's cluster, without an address"
        finally:
            cluster.communicate("\n" * 4, timeout=60)


MANY = """
import ray
from readqg.config import Compute
from readqg.engine import cluster
ray.init(address="local", num_cpus=8, num_gpus=1, include_dashboard=False)
print(cluster.actor_cpus(Compute(workers=128)), cluster.actor_cpus(Compute(workers=4, device="cpu")))
"""


def test_actors_that_there_is_no_gpu_for_yet_do_not_share_the_cpus_that_are_there():
    done = subprocess.run([sys.executable, "-c", MANY], cwd=Path(__file__).parents[2], text=True, capture_output=True, timeout=200)
    assert done.stdout == "1.0 1.0\n", done.stderr

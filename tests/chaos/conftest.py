"""A local cluster whose second node comes and goes."""

import secrets

import pytest


@pytest.fixture
def cluster(forget_token, monkeypatch, tmp_path):
    """A head with one CPU, so that of two model workers one must be on the second node."""
    (tmp_path / "token").write_text(secrets.token_hex(32))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # its nodes have this machine's address, off loopback
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    from ray._private.authentication_test_utils import reset_auth_token_state
    from ray.cluster_utils import Cluster

    reset_auth_token_state()  # what is left of an earlier test's cluster may have asked since
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20})
    yield cluster
    cluster.shutdown()

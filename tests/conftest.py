"""Fixtures that every test may use."""

import json
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Of the chaos tests, for campaigns longer than the default."""
    parser.addoption("--rounds", type=int, default=20, help="kills in all, over all stages (chaos tests)")
    parser.addoption("--chaos-seed", type=int, default=0, help="what is killed, and when, follows from it (chaos tests)")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real collections and weights beside the project."""
    if not SHARED.is_dir():
        pytest.skip("../shared (real collections and weights) is not there")
    return SHARED


@pytest.fixture(scope="session")
def losses() -> dict[str, Any]:
    """Inputs and expected values of every loss, computed in float64 with NumPy."""
    content: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "losses.json").read_text())
    return content


@pytest.fixture
def forget_token():
    """Ray keeps the first token that it reads for as long as the process lives: afterwards it reads its environment anew. Asked for
    before `monkeypatch`, so that the environment is put back by then."""
    yield
    from ray._private.authentication_test_utils import reset_auth_token_state

    reset_auth_token_state()


@pytest.fixture(scope="session")
def ray_here():
    """One local Ray for all tests of the engine; the engine uses a connection that is open."""
    import ray

    from readqg.config import Compute
    from readqg.engine import cluster
    from tests.engine import toys

    ray.cloudpickle.register_pickle_by_value(toys)
    with cluster.connect(Compute()):
        yield

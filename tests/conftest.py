"""Fixtures that every test may use."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

_BEGAN = time.monotonic()
SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Campaigns longer than the default, and a time for the whole."""
    parser.addoption("--rounds", type=int, default=20, help="kills in all, over all stages (chaos tests)")
    parser.addoption("--chaos-seed", type=int, default=0, help="what is killed, and when, follows from it (chaos tests)")
    parser.addoption("--within", type=float, metavar="SECONDS", help="no test begins later than this: it is skipped, and named")
    parser.addoption("--turn", type=int, default=0, help="which module comes first: of those that --within leaves out, others each time")


@pytest.hookimpl(trylast=True)  # after those without the marker have gone
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    modules = list(dict.fromkeys(item.path for item in items))
    first = config.getoption("--turn") % max(len(modules), 1)
    place = {path: (at - first) % len(modules) for at, path in enumerate(modules)}
    items.sort(key=lambda item: place[item.path])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    within = item.config.getoption("--within")
    if within is not None and time.monotonic() - _BEGAN > within:
        pytest.skip(f"no time was left for {item.nodeid}")


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

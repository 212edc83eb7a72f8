import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import toys  # noqa: E402


@pytest.fixture(scope="session")
def ray_here():
    """One local Ray for all engine tests; the engine uses a connection that is open."""
    import ray

    from readqg.config import Compute
    from readqg.engine import cluster

    ray.cloudpickle.register_pickle_by_value(toys)
    with cluster.connect(Compute()):
        yield

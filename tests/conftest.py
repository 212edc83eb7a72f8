"""Fixtures that every test may use."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real collections and weights beside the project."""
    if not SHARED.is_dir():
        pytest.skip("../shared (real collections and weights) is not there")
    return SHARED

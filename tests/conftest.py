import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parent


@pytest.fixture(autouse=True)
def _one_thread():
    """Two test processes share two cores; more threads than that only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture
def tiny_networks(monkeypatch):
    """Make `tiny_networks:student` importable, as a module in the current directory is."""
    monkeypatch.syspath_prepend(str(TESTS))
    yield
    sys.modules.pop("tiny_networks", None)

import os
import sys
from pathlib import Path

# Two test processes share two cores; more threads than that only wait for each other. For what has a number
# of its own (BLAS, OpenMP) and for the processes that tests start; read when these libraries are loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

TESTS = Path(__file__).parent


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def tiny_networks(monkeypatch):
    """Make `tiny_networks:student` importable, as a module in the current directory is."""
    monkeypatch.syspath_prepend(str(TESTS))
    yield
    sys.modules.pop("tiny_networks", None)

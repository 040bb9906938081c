"""Freed memory stays with a process that trains on the CPU, as the kernel's count of page faults shows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cmkd.training import allocator

# Faults of the second of two times that a block is taken, written to and freed.
FAULTS = """
import mmap, resource, sys
import numpy
from cmkd.training.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    numpy.ones(int(sys.argv[2]) << 20, dtype=numpy.uint8)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print((after - before) * mmap.PAGESIZE / 2**20)
"""


def _renewed(*arguments: str, **environment: str) -> float:
    """Return the MiB that had to be had from the kernel for a block that had been there before."""
    clean = {name: value for name, value in os.environ.items() if name not in allocator._SET_BY_USER}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, *arguments],
        env={**clean, "NUMPY_MADVISE_HUGEPAGE": "0", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def _faults_are_pages() -> bool:
    huge = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return not huge.exists() or "[always]" not in huge.read_text(encoding="ascii")


@pytest.mark.skipif(not _faults_are_pages(), reason="huge pages: the kernel's count says nothing")
@pytest.mark.skipif(not allocator.keep_freed_memory(), reason="a C library that has no such setting")
def test_a_block_is_had_from_the_kernel_once() -> None:
    # glibc's own limit grows to 32 MiB at most: a larger block is new every time.
    assert _renewed("leave", "100") > 90
    assert _renewed("keep", "100") < 10


def test_settings_of_the_user_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not allocator.keep_freed_memory()

"""Turns every kernel off, so that all is computed in plain PyTorch: for comparisons, tests and doubts.

For a whole process, set the environment variable `CMKD_KERNELS=0`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

ENVIRONMENT = "CMKD_KERNELS"


class _State:
    switched_off = 0


def enabled() -> bool:
    """Whether kernels may be used at all."""
    return not _State.switched_off and os.environ.get(ENVIRONMENT) != "0"


@contextmanager
def disabled() -> Iterator[None]:
    """Return a context without kernels."""
    _State.switched_off += 1
    try:
        yield
    finally:
        _State.switched_off -= 1

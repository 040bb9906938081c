"""What a launcher such as `accelerate launch` or SLURM tells a process, before it meets the others."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import NoReturn


def world_size() -> int:
    """Return how many processes there are; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def number(variable: str = "RANK") -> int:
    """Return one of the numbers of this process, `RANK` or `LOCAL_RANK`; 0 if there is but one process."""
    return int(os.environ.get(variable, "0")) if world_size() > 1 else 0


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Hide a place among processes that another library has left in the environment.

    Lightning, for one, leaves `LOCAL_RANK` there even if it ran in one process. Accelerate would take it for
    the word of a launcher, and look for processes that nobody has started. Where a launcher has started
    several, which is what `WORLD_SIZE` says, nothing is hidden.
    """
    left = os.environ.pop("LOCAL_RANK", None) if world_size() == 1 else None
    try:
        yield
    finally:
        if left is not None:
            os.environ["LOCAL_RANK"] = left


def leave(status: int) -> NoReturn:
    """End this process with an exit status; call it last of all, when nothing is to be cleaned up any more.

    One of several ends without Python's own clearing up, in which threads that talk to the other processes
    would abort it now and then, its work long done, and with it what the launcher says of the run.
    """
    if world_size() == 1:
        sys.exit(status)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

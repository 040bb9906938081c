"""What a launcher such as `accelerate launch` or SLURM tells a process, before it meets the others."""

from __future__ import annotations

import os


def world_size() -> int:
    """Return how many processes there are; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def number(variable: str = "RANK") -> int:
    """Return one of the numbers of this process, `RANK` or `LOCAL_RANK`; 0 if there is but one process."""
    return int(os.environ.get(variable, "0")) if world_size() > 1 else 0

"""Training: the loop, its options, its checkpoints, and runs from options to result."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmkd.training.building import build_loss
    from cmkd.training.cache_config import CacheConfig
    from cmkd.training.caching import cache
    from cmkd.training.config import DistillConfig, RunConfig, TrainConfig
    from cmkd.training.loop import fit
    from cmkd.training.measure import evaluate
    from cmkd.training.objective import Objective
    from cmkd.training.run_folder import RunFolder
    from cmkd.training.runs import distill, train

# Read by `__getattr__`: the options are looked up by every command, the loop and what it needs only by some.
_MODULES = {
    "CacheConfig": "cache_config",
    "DistillConfig": "config",
    "Objective": "objective",
    "RunConfig": "config",
    "RunFolder": "run_folder",
    "TrainConfig": "config",
    "build_loss": "building",
    "cache": "caching",
    "distill": "runs",
    "evaluate": "measure",
    "fit": "loop",
    "train": "runs",
}

__all__ = [
    "CacheConfig",
    "DistillConfig",
    "Objective",
    "RunConfig",
    "RunFolder",
    "TrainConfig",
    "build_loss",
    "cache",
    "distill",
    "evaluate",
    "fit",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)

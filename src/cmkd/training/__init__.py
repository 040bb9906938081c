"""Training: the loop, its options, its checkpoints, and runs from options to result."""

from cmkd.training.config import DistillConfig, RunConfig, TrainConfig
from cmkd.training.loop import Interrupted, fit
from cmkd.training.objective import Objective, build_loss
from cmkd.training.run_folder import RunFolder
from cmkd.training.runs import distill, train

__all__ = [
    "DistillConfig",
    "Interrupted",
    "Objective",
    "RunConfig",
    "RunFolder",
    "TrainConfig",
    "build_loss",
    "distill",
    "fit",
    "train",
]

"""Distillation in the loops of other libraries: one class for each, imported when it is asked for.

    from cmkd.integrations import DistillationCallback  # Lightning
    from cmkd.integrations import DistillationTrainer   # Transformers
    from cmkd.integrations import DistillationTask      # timm

Each takes a teacher and any loss on logits, `CMKDLoss` by default, and minimises what a loop of one's own
would: `loss.task_weight * task_loss + loss(student_logits, teacher_logits, target)`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmkd.integrations.lightning import DistillationCallback
    from cmkd.integrations.timm import DistillationTask
    from cmkd.integrations.transformers import DistillationTrainer

__all__ = ["DistillationCallback", "DistillationTask", "DistillationTrainer"]

_MODULES = {
    "DistillationCallback": "lightning",
    "DistillationTask": "timm",
    "DistillationTrainer": "transformers",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)

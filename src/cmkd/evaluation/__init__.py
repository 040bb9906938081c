"""Measuring networks: accuracy, calibration, fidelity to the teacher, cost."""

from cmkd.evaluation.cost import cpu_latency
from cmkd.evaluation.metrics import (
    calibration_error,
    collect_logits,
    evaluate_logits,
    fidelity,
    on_images,
    quality,
)

__all__ = [
    "calibration_error",
    "collect_logits",
    "cpu_latency",
    "evaluate_logits",
    "fidelity",
    "on_images",
    "quality",
]

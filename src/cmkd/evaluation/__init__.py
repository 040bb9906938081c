"""Measuring networks: accuracy, calibration, fidelity to the teacher, robustness, cost."""

from cmkd.evaluation.cost import cpu_latency
from cmkd.evaluation.detail import collect_all, sections
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
    "collect_all",
    "collect_logits",
    "cpu_latency",
    "evaluate_logits",
    "fidelity",
    "on_images",
    "quality",
    "sections",
]

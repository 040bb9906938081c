"""The logits of a student, and of its teacher if it is at hand, as the sections of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from cmkd.data import Batch
from cmkd.evaluation.calibration import calibration, fit_temperature
from cmkd.evaluation.classes import accuracy, mistakes
from cmkd.evaluation.following import following
from cmkd.evaluation.metrics import evaluate_logits


@torch.no_grad()
def collect_all(
    networks: Mapping[str, Callable[[Batch], Tensor]], batches: Iterable[Batch]
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Run networks over the same batches, which are read once.

    Args:
        networks: By name; each maps a batch to logits `(B, C)`.
        batches: The batches.

    Returns:
        By name logits `(N, C)` in float32; targets `(N,)` and indices `(N,)`, in the order of the batches.
    """
    logits: dict[str, list[Tensor]] = {name: [] for name in networks}
    targets, indices = [], []
    for batch in batches:
        for name, network in networks.items():
            logits[name].append(network(batch).float())
        targets.append(batch.targets)
        indices.append(batch.indices)
    return {name: torch.cat(each) for name, each in logits.items()}, torch.cat(targets), torch.cat(indices)


def sections(
    logits: Tensor,
    teacher_logits: Tensor | None,
    targets: Tensor,
    indices: Tensor,
    validation: Mapping[str, tuple[Tensor, Tensor]],
    missing: dict[str, str],
) -> dict[str, Any]:
    """Measure what logits tell.

    Args:
        logits: Student logits `(N, C)`.
        teacher_logits: Teacher logits `(N, C)` for the same images, if there is a teacher.
        targets: Class indices `(N,)`.
        indices: Index of every image in its data set, `(N,)`.
        validation: By network, where there are any: its logits and the targets of images that it was neither
            trained on nor is measured on, to fit its temperature.
        missing: What is left out, and why; more is added to it.

    Returns:
        `student` and `teacher`, the scores of `evaluate_logits`; `accuracy`, by network and with `mistakes`;
        `fidelity`; `calibration` by network, `scaled` where a temperature could be fitted.
    """
    said = {"student": logits} | ({} if teacher_logits is None else {"teacher": teacher_logits})
    classes = logits.shape[1]
    if classes <= 5:
        missing["top5"] = f"among {classes} classes every answer is one of the first five"
    if classes == 2 and teacher_logits is not None:
        missing["non_target_spearman"] = "beside the label there is one class, which has no rank"
    found: dict[str, Any] = {"student": evaluate_logits(logits, targets, teacher_logits)}
    if teacher_logits is not None:
        found["teacher"] = evaluate_logits(teacher_logits, targets, None)
    found["accuracy"] = {name: accuracy(each, targets) for name, each in said.items()}
    if teacher_logits is not None:
        found["accuracy"]["mistakes"] = mistakes(logits, teacher_logits, targets, indices)
        found["fidelity"] = following(logits, teacher_logits, targets)
    found["calibration"] = {
        name: _calibrated(each, targets, validation.get(name)) for name, each in said.items()
    }
    return found


def _calibrated(logits: Tensor, targets: Tensor, validation: tuple[Tensor, Tensor] | None) -> dict[str, Any]:
    found = calibration(logits, targets)
    if validation is not None:
        held_out, classes = validation
        temperature, at_limit = fit_temperature(held_out, classes)
        found["scaled"] = {
            "temperature": temperature,
            "at_limit": at_limit,
            "fitted_on": len(classes),
            **calibration(logits, targets, temperature=temperature),
        }
    return found

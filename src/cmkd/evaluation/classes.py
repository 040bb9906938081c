"""Right and wrong: over all images, class by class, and of a student beside its teacher."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cmkd.evaluation.intervals import share


def accuracy(logits: Tensor, targets: Tensor) -> dict[str, Any]:
    """Count what a classifier gets right.

    Args:
        logits: Logits `(N, C)`.
        targets: Class indices `(N,)`.

    Returns:
        `top1` and, with more than five classes, `top5`: shares with their intervals (`intervals.share`).
        `per_class`: `images` and `right` of every class, lists of C counts. `confusion`: of every pair of
        classes that was met, `target`, `predicted` and `count`, three lists of one length.
    """
    total, classes = logits.shape
    predicted = logits.argmax(1)
    right = predicted == targets
    found: dict[str, Any] = {"top1": share(int(right.sum()), total)}
    if classes > 5:
        among = (logits.topk(5).indices == targets[:, None]).any(1)
        found["top5"] = share(int(among.sum()), total)
    found["per_class"] = {
        "images": _per_class(torch.ones_like(right), targets, classes),
        "right": _per_class(right, targets, classes),
    }
    pairs, counts = (targets * classes + predicted).unique(return_counts=True)
    found["confusion"] = {
        "target": (pairs // classes).tolist(),
        "predicted": (pairs % classes).tolist(),
        "count": counts.tolist(),
    }
    return found


def mistakes(logits: Tensor, teacher_logits: Tensor, targets: Tensor, indices: Tensor) -> dict[str, Any]:
    """Compare where a student and its teacher are wrong.

    Args:
        logits: Student logits `(N, C)`.
        teacher_logits: Teacher logits `(N, C)` for the same images.
        targets: Class indices `(N,)`.
        indices: Index of every image in its data set, `(N,)`.

    Returns:
        `both_right`, `both_wrong`, `student_only` and `teacher_only` (wrong there and right with the other
        one): shares with their intervals. `per_class`: `gains` (right with the student, wrong with the
        teacher) and `losses`, lists of C counts. `images`: the indices of `student_only`.
    """
    total, classes = logits.shape
    student, teacher = logits.argmax(1) == targets, teacher_logits.argmax(1) == targets
    lost, gained = ~student & teacher, student & ~teacher
    return {
        "both_right": share(int((student & teacher).sum()), total),
        "both_wrong": share(int((~student & ~teacher).sum()), total),
        "student_only": share(int(lost.sum()), total),
        "teacher_only": share(int(gained.sum()), total),
        "per_class": {
            "gains": _per_class(gained, targets, classes),
            "losses": _per_class(lost, targets, classes),
        },
        "images": indices[lost].tolist(),
    }


def _per_class(chosen: Tensor, targets: Tensor, classes: int) -> list[int]:
    return torch.bincount(targets[chosen], minlength=classes).tolist()

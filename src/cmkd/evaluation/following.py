"""How closely a student's logits follow its teacher's, image by image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cmkd.evaluation.intervals import share
from cmkd.evaluation.kendall import kendall_tau
from cmkd.functional import kl_divergence, pearson, spearman

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

#: Numbers that are compared at a time: a batch of rows in float64 stays in the processor's cache.
_CHUNK = 1 << 18


def per_image(logits: Tensor, teacher_logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Compare every row of logits with the teacher's, in float64.

    Args:
        logits: Student logits `(N, C)`.
        teacher_logits: Teacher logits `(N, C)` for the same images.
        targets: Class indices `(N,)`.

    Returns:
        Per name a tensor `(N,)`: `kl`, the divergence from the teacher's distribution to the student's at
        temperature 1 in nats; `pearson`, `spearman` and `kendall` (tau-b) of the logits, 0 for a constant
        row; with more than five classes `top5_overlap`, the share of the teacher's five highest classes that
        are among the student's; with more than two `non_target_spearman`, without the label's class.
    """
    classes = logits.shape[1]
    rows = max(1, _CHUNK // classes)
    parts: dict[str, list[Tensor]] = {}
    for student, teacher, target in zip(
        logits.split(rows), teacher_logits.split(rows), targets.split(rows), strict=True
    ):
        found = _compare(student.double(), teacher.double(), target)
        for name, values in found.items():
            parts.setdefault(name, []).append(values)
    return {name: torch.cat(values) for name, values in parts.items()}


def _compare(student: Tensor, teacher: Tensor, target: Tensor) -> dict[str, Tensor]:
    classes = student.shape[1]
    found = {
        "kl": kl_divergence(student, teacher),
        "pearson": pearson(student, teacher),
        "spearman": spearman(student, teacher),
        "kendall": kendall_tau(student, teacher),
    }
    if classes > 5:
        ours, theirs = student.topk(5).indices, teacher.topk(5).indices
        found["top5_overlap"] = (ours[:, :, None] == theirs[:, None, :]).sum((1, 2)).double() / 5
    if classes > 2:
        others = torch.arange(classes, device=target.device) != target[:, None]
        # The label's class is taken out, so that all rows have one length.
        found["non_target_spearman"] = spearman(
            student[others].view(-1, classes - 1), teacher[others].view(-1, classes - 1)
        )
    return found


def following(logits: Tensor, teacher_logits: Tensor, targets: Tensor) -> dict[str, Any]:
    """Sum up `per_image`.

    Args:
        logits: Student logits `(N, C)`.
        teacher_logits: Teacher logits `(N, C)` for the same images.
        targets: Class indices `(N,)`.

    Returns:
        `agreement`, the share of images given the same class, with its interval; of every comparison of
        `per_image` the `mean` and the `quantiles` (at `QUANTILES`) over the images.
    """
    same = int((logits.argmax(1) == teacher_logits.argmax(1)).sum())
    found: dict[str, Any] = {"agreement": share(same, len(targets)), "quantiles_at": list(QUANTILES)}
    for name, values in per_image(logits, teacher_logits, targets).items():
        # Sorted by hand: torch.quantile refuses more than 16 million values.
        ordered = values.sort().values
        at = torch.tensor(QUANTILES, dtype=torch.float64, device=values.device) * (len(values) - 1)
        low = at.floor().long()
        high = at.ceil().long()
        found[name] = {
            "mean": values.mean().item(),
            "quantiles": torch.lerp(ordered[low], ordered[high], at - low).tolist(),
        }
    return found

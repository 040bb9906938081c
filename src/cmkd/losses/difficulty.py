"""How hard a sample is, and what weight between the two terms of CMKD follows from it."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from cmkd.errors import InputError
from cmkd.functional import exact_rank, log_probabilities, standardize
from cmkd.functional.fused import normalized_entropy

Difficulty = Literal["teacher_entropy", "student_entropy", "teacher_ce", "constant"]
DifficultyScale = Literal["batch_rank", "batch_standardize", "none"]


@torch.no_grad()
def sample_difficulty(
    student: Tensor,
    teacher: Tensor,
    target: Tensor | None,
    *,
    measure: Difficulty,
    tau: float,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Difficulty of every sample, 0 (easy) to 1 (hard), without gradient.

    The entropies are those of $\mathrm{softmax}(z / \tau)$ of the z-scored logits, whatever the Pearson term
    compares: the plain softmax of a teacher on its own training data is nearly one-hot, and its entropy
    nearly 0 for every sample.

    Args:
        student: Logits, (N, C) or (N, C, *).
        teacher: Of the same shape.
        target: Class indices, (N,) or (N, *); needed for `"teacher_ce"`.
        measure: `"teacher_entropy"` or `"student_entropy"`, divided by log C; `"teacher_ce"`, the
            cross-entropy of the teacher on the label, divided by log C and cut at 1.
        tau: Temperature $\tau$ of the entropies.
        mask: Valid classes, bool, of a shape that broadcasts to that of the logits; C counts these alone.

    Returns:
        (N, *), in [0, 1].

    Raises:
        InputError: `"teacher_ce"` without target.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[5.0, 5.0, 5.0], [9.0, 0.0, 0.0]])
        >>> sample_difficulty(logits, logits, None, measure="teacher_entropy", tau=1.0)
        tensor([1.0000, 0.5690])
    """
    if measure == "teacher_ce":
        if target is None:
            raise InputError(
                "difficulty 'teacher_ce' reads the labels, but target is None: pass the labels, or choose"
                " 'teacher_entropy'."
            )
        log_p = log_probabilities(teacher, dim=1, mask=mask)
        raw = -log_p.gather(1, target.unsqueeze(1)).squeeze(1)
        if mask is None:
            return (raw / math.log(teacher.shape[1])).clamp(0.0, 1.0)
        return (raw / mask.expand(teacher.shape).sum(1).clamp(min=2).log()).clamp(0.0, 1.0)
    return normalized_entropy(teacher if measure == "teacher_entropy" else student, tau=tau, mask=mask)


@torch.no_grad()
def difficulty_weight(difficulty: Tensor, scale: DifficultyScale) -> Tensor:
    """Spread the difficulties of a batch over [0, 1].

    Args:
        difficulty: One value per sample, of any shape with M values, in [0, 1].
        scale: `"batch_rank"`: tie-averaged rank within the batch, as (rank - 1/2) / M, whose mean is 1/2
            for every batch; `"batch_standardize"`: logistic function of the z-score within the batch, mean
            about 1/2; `"none"`: as it is.

    Returns:
        Of that shape, in [0, 1]. A batch of one sample gives 1/2 unless the scale is `"none"`.

    Example:
        >>> import torch
        >>> difficulty_weight(torch.tensor([0.90, 0.91, 0.95, 0.99]), "batch_rank")
        tensor([0.1250, 0.3750, 0.6250, 0.8750])
    """
    if scale == "batch_rank":
        rank = exact_rank(difficulty.flatten()).reshape(difficulty.shape)
        return (rank - 0.5) / difficulty.numel()
    if scale == "batch_standardize":
        return standardize(difficulty.flatten()).sigmoid().reshape(difficulty.shape)
    return difficulty

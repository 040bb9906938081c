"""Differentiable Spearman loss: the student's soft ranks against the teacher's exact ones."""

from __future__ import annotations

import torch
from torch import Tensor

from cmkd.errors import unknown_name
from cmkd.functional.definition import TermOptions
from cmkd.functional.fused import correlation_terms
from cmkd.functional.logits import REDUCTIONS, Reduction, check_logits, common_dtype
from cmkd.functional.rank import RankMethod, check_rank_options


def spearman_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    method: RankMethod = "binned",
    softness: float | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Spearman loss $1 - r(R(s), \mathrm{rank}(t))$ of every row.

    $R$ is the soft rank of the student, the teacher has the exact, tie-averaged rank and no gradient; with
    a sharp $R$ this is one minus Spearman's $\rho$. Loss and gradient are computed together, see
    `cmkd.functional.fused`: beside the logits only that gradient is kept for the backward pass.

    A row that is constant or has fewer than two valid classes correlates 0 with anything: its loss is 1,
    with zero gradient. NaN and infinity raise an error on CPU; elsewhere, where looking for them would stall
    the device, their row counts as constant.

    Args:
        student_logits: (N, C) or (N, C, *); positions count as samples.
        teacher_logits: Of the same shape.
        method: Soft rank, see `soft_rank`.
        softness: Its softness; `default_softness(method, C)` if None.
        mask: bool, True for every valid class: (C,), (N, C) or the shape of the logits. The loss is that of
            the valid columns alone; what stands in the others, be it NaN, has no effect.
        reduction: `"mean"` or `"sum"` over samples and positions, or `"none"`.

    Returns:
        A scalar, or (N, *) for `"none"`; float64 if an input is float64, else float32.

    Raises:
        InputError: Logits, mask or option out of its domain; the message names the value and the remedy.

    Example:
        >>> import torch
        >>> student = torch.tensor([[1.0, 2.0, 3.0, 9.0]])
        >>> teacher = torch.tensor([[0.1, 0.3, 0.2, 0.4]])
        >>> spearman_loss(student, teacher, softness=0.001).round(decimals=3)
        tensor(0.2000)
    """
    check_rank_options(method, softness)
    if reduction not in REDUCTIONS:
        raise unknown_name("reduction", str(reduction), REDUCTIONS)
    valid = check_logits(student_logits, teacher_logits, mask=mask)
    dtype = common_dtype(student_logits, teacher_logits)
    share = 1 / (student_logits.numel() / student_logits.shape[1]) if reduction == "mean" else 1.0
    return correlation_terms(
        student_logits,
        teacher_logits,
        value_weight=None,
        rank_weight=torch.full_like(student_logits.detach().select(1, 0), share, dtype=dtype),
        options=TermOptions(method, softness),
        mask=valid,
        per_sample=reduction == "none",
    ).loss

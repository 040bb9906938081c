"""Kendall's tau, smoothed: every pair of classes in the teacher's order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cmkd.functional.chunks import CHUNK, CHUNK_ON_ACCELERATOR
from cmkd.functional.gradient import backward
from cmkd.functional.logits import REDUCTIONS, Reduction
from cmkd.functional.precision import full_precision
from cmkd.functional.tracing import is_traced
from cmkd.losses.base import DistillationLoss, check_choice, check_number, flatten, reduce

# Classes whose pairs are computed at a time: of few, few pairs are counted twice.
_BLOCK = 32
_FARTHEST = 1e38


def kendall_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor | None = None,
    *,
    alpha: float = 32.0,
    steepness: float = 1.0,
    logit_standardization: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Ranking loss $\alpha \, (1 - \tau_k)$ with Kendall's $\tau$ made differentiable.

    $\tau_k = \frac{2}{C (C - 1)} \sum_{i < j} \tanh(k (t_i - t_j)) \tanh(k (s_i - s_j))$ over the pairs of
    classes, which for large $k$ is Kendall's $\tau$ (tau-a: ties count 0): after Guan et al. 2024, Enhancing
    Logits Distillation with Plug&Play Kendall's tau Ranking Loss (arXiv 2409.17823). That paper is known to
    us by its abstract and its reviews: a smooth $\tau$ of the logits with a steepness $k$, added to any other
    loss. That both signs are smoothed on their own, so that no pair weighs more than another for the size of
    its gap, and both defaults are our choice; the weight is that of CMKD as a whole. The distillation term
    alone, beside cross-entropy with weight 1.

    The time grows with $C^2$, the memory with C: pairs are computed in blocks, loss and gradient together.
    Under `torch.compile` and `torch.func`, and for second derivatives, it is the plain formula. A constant
    teacher has no order, and gives the loss $\alpha$ without gradient; a perfect student, whose gaps are as
    small as its teacher's, keeps some loss.

    Args:
        student_logits: (N, C) or (N, C, *).
        teacher_logits: Of the same shape; no gradient flows into it.
        target: (N,) or (N, *) int64; checked, not used.
        alpha: Weight $\alpha$ of the term.
        steepness: $k > 0$, per unit of the logits.
        logit_standardization: z-score both logits per row first (Sun et al. 2024, arXiv 2403.01427), so that
            the steepness is per standard deviation.
        reduction: `"mean"` or `"sum"` over samples and positions, or `"none"`.

    Returns:
        A scalar, or (N, *) for `"none"`; float64 if an input is float64, else float32.

    Raises:
        InputError: Input or option out of its domain; see `cmkd.losses.base.flatten`.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 2.0, 4.0, 3.0]]), torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        >>> kendall_loss(student, teacher, alpha=1.0, steepness=100.0)  # 1 of 6 pairs is the wrong way round
        tensor(0.3333)
    """
    _check_options(alpha, steepness, reduction)
    student, teacher, _, shape = flatten(
        student_logits, teacher_logits, target, logit_standardization=logit_standardization
    )
    with full_precision(student):
        tau = _define(student, teacher, steepness) if is_traced() else _Tau.apply(student, teacher, steepness)
        return reduce(alpha * (1 - tau), shape, reduction)


def _define(student: Tensor, teacher: Tensor, steepness: float) -> Tensor:
    """Smooth tau of (M, C) rows, (M,), in differentiable operations on all pairs at once."""
    signs = [(steepness * (x.unsqueeze(2) - x.unsqueeze(1))).tanh() for x in (student, teacher)]
    classes = student.shape[1]
    return (signs[0] * signs[1]).sum((1, 2)) / (classes * (classes - 1))


class _Tau(torch.autograd.Function):
    """Smooth tau with its gradient in the forward pass; the backward pass is one multiplication."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, steepness: float) -> Tensor:
        tau, ctx.slope = _in_blocks(student, teacher, steepness, gradient=ctx.needs_input_grad[0])
        ctx.save_for_backward(student, teacher)
        ctx.steepness, ctx.per_sample = steepness, True
        return tau

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        student, teacher = ctx.saved_tensors

        def again() -> Tensor:
            slope = _in_blocks(student, teacher, ctx.steepness, gradient=True)[1]
            assert slope is not None
            return slope

        def define() -> Tensor:
            return _define(student, teacher, ctx.steepness)

        return backward(ctx, upstream, student, again=again, define=define), None, None


@torch.no_grad()
def _in_blocks(
    student: Tensor, teacher: Tensor, steepness: float, *, gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Compute the smooth tau of every row and, if asked, its gradient, on few pairs at a time."""
    samples, classes = student.shape
    tau, slope = student.new_zeros(samples), torch.zeros_like(student) if gradient else None
    # The product may overflow, and a difference of two infinities would be none.
    scaled = [(steepness * x).clamp(-_FARTHEST, _FARTHEST) for x in (student, teacher)]
    limit = CHUNK if student.device.type == "cpu" else CHUNK_ON_ACCELERATOR
    for rows, block in _blocks(samples, classes, limit):
        mine, theirs = (
            (x[rows, block].unsqueeze(2) - x[rows, block.start :].unsqueeze(1)).tanh_() for x in scaled
        )
        # Classes are paired with those of their own block and of all later ones: the former twice.
        theirs[:, :, : block.stop - block.start] *= 0.5
        agreement = mine * theirs
        tau[rows] += agreement.flatten(1).sum(1)
        if slope is not None:
            pull = theirs.addcmul_(agreement, mine, value=-1)  # times the derivative of tanh, 1 - tanh^2
            slope[rows, block] += pull.sum(2)
            slope[rows, block.start :] -= pull.sum(1)
    scale = 2 / (classes * (classes - 1))
    return tau.mul_(scale), None if slope is None else slope.mul_(scale * steepness)


def _blocks(samples: int, classes: int, limit: int) -> Iterator[tuple[slice, slice]]:
    """Yield slices of the samples and of the classes, with at most `limit` pairs or those of one class."""
    width = max(1, min(_BLOCK, classes, limit // classes))
    height = max(1, limit // (width * classes))
    for sample in range(0, samples, height):
        for first in range(0, classes, width):
            yield slice(sample, min(sample + height, samples)), slice(first, min(first + width, classes))


class KendallLoss(DistillationLoss):
    r"""Kendall's tau, smoothed (after Guan et al. 2024): every pair of classes in the teacher's order.

    Module form of `kendall_loss`, $\alpha \, (1 - \tau_k)$; a reconstruction from the paper's abstract, see
    there. The distillation term alone; the objective is `cross_entropy + loss`.

    Args:
        alpha: Weight $\alpha$ of the term.
        steepness: $k > 0$, per unit of the logits.
        logit_standardization: z-score both logits per row first (Sun et al. 2024).
        reduction: `"mean"` or `"sum"` over samples and positions, or `"none"`.

    Example:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> distill = KendallLoss()
        >>> logits, target = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([1])
        >>> teacher_logits = torch.tensor([[1.0, 3.0, 2.0]])
        >>> loss = F.cross_entropy(logits, target) + distill(logits, teacher_logits, target)
    """

    def __init__(
        self,
        *,
        alpha: float = 32.0,
        steepness: float = 1.0,
        logit_standardization: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        _check_options(alpha, steepness, reduction)
        self.alpha = alpha
        self.steepness = steepness
        self.logit_standardization = logit_standardization

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss; arguments, shapes and errors as in `kendall_loss`."""
        return kendall_loss(
            student_logits,
            teacher_logits,
            target,
            alpha=self.alpha,
            steepness=self.steepness,
            logit_standardization=self.logit_standardization,
            reduction=self.reduction,
        )


def _check_options(alpha: float, steepness: float, reduction: str) -> None:
    check_number("alpha", alpha)
    check_number("steepness", steepness, positive=True)
    check_choice("reduction", reduction, REDUCTIONS)

"""The correlation terms of CMKD with their gradient in one step, by the fastest means that the input allows.

`cmkd.functional.definition` has them in differentiable tensor operations: what `torch.compile` and
`torch.func` see, and what a second derivative goes through. Otherwise the loss and its gradient are computed
together, row by row or in chunks of rows, so that nothing but that gradient has to be kept until the backward
pass:

- on CPU by C kernels, if there is a compiler (`cmkd.kernels.native`),
- on CUDA by Triton kernels, if they are found to work there (`cmkd.functional.fused_triton`),
- elsewhere by the definition itself, on chunks of rows (`cmkd.functional.chunks`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cmkd.functional import fused_triton
from cmkd.functional.chunks import compute_in_chunks, in_chunks
from cmkd.functional.definition import (
    TermOptions,
    Terms,
    Weights,
    define_entropy,
    define_terms,
    knots_of,
    softness_of,
    weigh,
)
from cmkd.functional.gradient import backward
from cmkd.functional.logits import as_rows, common_dtype
from cmkd.functional.tracing import is_traced
from cmkd.kernels import native


class CorrelationTerms(NamedTuple):
    """A loss and its terms."""

    loss: Tensor
    """The weighted sum of both terms over the batch, a scalar, or per sample, (N, *); with its gradient."""
    pearson: Tensor | None
    """Pearson term P = 1 - r, (N, *), detached; None if it has no weight."""
    spearman: Tensor
    """Spearman term S = 1 - r of the ranks, (N, *), detached."""


def correlation_terms(
    student: Tensor,
    teacher: Tensor,
    *,
    value_weight: Tensor | None,
    rank_weight: Tensor,
    options: TermOptions,
    mask: Tensor | None = None,
    per_sample: bool = False,
) -> CorrelationTerms:
    r"""Pearson term of the softened z-scores and Spearman term of the soft ranks, with given weights.

    $v_i P_i + w_i S_i$ with $P = 1 - r(\mathrm{softmax}(z_s / \tau), \mathrm{softmax}(z_t / \tau))$ and
    $S = 1 - r(R(s), \mathrm{rank}(t))$. Differentiable in the student only, twice if need be.

    A row that is constant, has fewer than two valid classes, or holds NaN or infinity in a valid one,
    correlates 0 with anything and gets no gradient: P = S = 1.

    Args:
        student: (N, C) or (N, C, *), floating, checked by `cmkd.functional.logits.check_logits`.
        teacher: Of the same shape.
        value_weight: $v$, (N, *); None leaves the Pearson term out.
        rank_weight: $w$, (N, *).
        options: Soft rank and temperature.
        mask: Valid classes, as `cmkd.functional.logits.check_logits` returns it.
        per_sample: Return one loss per sample and position, in place of their sum.
    """
    dtype = common_dtype(student, teacher)
    teacher = teacher.detach()
    if dtype == torch.float64:
        student, teacher = student.double(), teacher.double()
    values = None if value_weight is None else value_weight.detach().to(dtype)
    ranks = rank_weight.detach().to(dtype)
    if is_traced():
        weighted, first, second = define_terms(student, teacher, (values, ranks), options, mask)
        loss = weighted if per_sample else weighted.sum()
        return CorrelationTerms(loss, None if first is None else first.detach(), second.detach())
    if student.device.type == "cpu":
        student, teacher = (x.float() if x.dtype == torch.float16 else x for x in (student, teacher))
    if not (torch.is_grad_enabled() and student.requires_grad):
        (weighted, first, second), _ = _compute(student, teacher, (values, ranks), options, mask, False)
        return CorrelationTerms(weighted if per_sample else weighted.sum(), first, second)
    loss, first, second = _Fused.apply(student, teacher, values, ranks, mask, options, per_sample)
    return CorrelationTerms(loss, None if values is None else first, second)


@torch.no_grad()
def normalized_entropy(logits: Tensor, *, tau: float, mask: Tensor | None = None) -> Tensor:
    r"""Entropy of $\mathrm{softmax}(z / \tau)$ of the z-scores, divided by the log of the valid classes.

    1 for a row that is constant, has fewer than two valid classes, or holds NaN or infinity in a valid one.

    Args:
        logits: (N, C) or (N, C, *).
        tau: Temperature $\tau > 0$.
        mask: Valid classes, as `cmkd.functional.logits.check_logits` returns it.

    Returns:
        (N, *), in [0, 1], without gradient.
    """
    if logits.dtype == torch.float16 and logits.device.type == "cpu":
        logits = logits.float()
    if not is_traced() and native.usable(logits, mask=mask):
        return native.entropy(logits, tau, mask)
    shape = (logits.shape[0], *logits.shape[2:])
    if is_traced():
        valid = None if mask is None else as_rows(mask.expand(logits.shape))
        return define_entropy(as_rows(logits), tau, valid).reshape(shape)
    parts = [define_entropy(rows, tau, valid) for _, rows, _, valid in in_chunks(logits, logits, mask)]
    return torch.cat(parts).reshape(shape)


class _Fused(torch.autograd.Function):
    """Loss and gradient in the forward pass; the backward pass is one multiplication."""

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        value_weight: Tensor | None,
        rank_weight: Tensor,
        mask: Tensor | None,
        options: TermOptions,
        per_sample: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        weights = (value_weight, rank_weight)
        (weighted, values, ranks), ctx.slope = _compute(student, teacher, weights, options, mask, True)
        if values is None:
            values = ranks.new_empty(0)
        ctx.save_for_backward(student, teacher, value_weight, rank_weight, mask)
        ctx.options, ctx.per_sample = options, per_sample
        ctx.mark_non_differentiable(values, ranks)
        return weighted if per_sample else weighted.sum(), values, ranks

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        student, teacher, value_weight, rank_weight, mask = ctx.saved_tensors
        weights = (value_weight, rank_weight)

        def again() -> Tensor:
            slope = _compute(student, teacher, weights, ctx.options, mask, True)[1]
            assert slope is not None
            return slope

        def define() -> Tensor:
            return define_terms(student, teacher, weights, ctx.options, mask)[0]

        grad = backward(ctx, upstream, student, again=again, define=define)
        return grad, None, None, None, None, None, None


def _compute(
    student: Tensor,
    teacher: Tensor,
    weights: Weights,
    options: TermOptions,
    mask: Tensor | None,
    gradient: bool,
) -> tuple[Terms, Tensor | None]:
    """Compute the terms, and the gradient of their weighted sum, by the fastest means."""
    if native.usable(student, teacher, mask=mask):
        return _compute_native(student, teacher, weights, options, mask, gradient)
    if fused_triton.usable(student, teacher, options, mask):
        return fused_triton.compute_terms(student, teacher, weights, options, mask, gradient)
    return compute_in_chunks(student, teacher, weights, options, mask, gradient)


def _compute_native(
    student: Tensor,
    teacher: Tensor,
    weights: Weights,
    options: TermOptions,
    mask: Tensor | None,
    gradient: bool,
) -> tuple[Terms, Tensor | None]:
    classes = student.shape[1]
    rank = native.RankOptions(options.method, softness_of(options, classes), knots_of(options, classes))
    terms = native.terms(
        student,
        teacher,
        rank,
        tau=options.tau,
        value_weight=weights[0],
        rank_weight=weights[1],
        mask=mask,
        gradient=gradient,
    )
    assert terms.spearman is not None
    return (weigh(terms.pearson, terms.spearman, weights), terms.pearson, terms.spearman), terms.grad

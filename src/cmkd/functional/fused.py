"""The correlation terms of CMKD with their gradient in one step, by the fastest means that the input allows.

The definition is `_define`, in differentiable tensor operations: what `torch.compile` and `torch.func` see,
and what a second derivative goes through. Otherwise the loss and its gradient are computed together, row by
row or in chunks of rows, so that nothing but that gradient has to be kept until the backward pass:

- on CPU by C kernels, if there is a compiler (`cmkd.kernels.native`),
- elsewhere by the definition itself, on as many rows at a time as fit into `CHUNK`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cmkd.functional.correlation import pearson
from cmkd.functional.divergence import entropy, log_probabilities
from cmkd.functional.logits import as_rows, common_dtype
from cmkd.functional.normalization import standardize
from cmkd.functional.precision import as_float, full_precision
from cmkd.functional.rank import RankMethod, default_softness, exact_rank, soft_rank
from cmkd.functional.soft_rank_binned import number_of_knots
from cmkd.functional.tracing import is_traced
from cmkd.kernels import native

#: Values that the definition is computed on at a time: their temporaries, about twenty times as many, stay in
#: the cache of a CPU. On an accelerator it takes more of them to be busy.
CHUNK = 2**18
CHUNK_ON_ACCELERATOR = 2**23


class CorrelationTerms(NamedTuple):
    """Per sample and position, (N, *)."""

    weighted: Tensor
    """The weighted sum of both terms, which carries the gradient."""
    pearson: Tensor | None
    """Pearson term P = 1 - r, detached; None if it has no weight."""
    spearman: Tensor
    """Spearman term S = 1 - r of the ranks, detached."""


class TermOptions(NamedTuple):
    """What the terms are computed with."""

    method: RankMethod = "binned"
    softness: float | None = None
    tau: float = 1.0


def correlation_terms(
    student: Tensor,
    teacher: Tensor,
    *,
    value_weight: Tensor | None,
    rank_weight: Tensor,
    options: TermOptions,
    mask: Tensor | None = None,
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
        mask: Valid classes, as `cmkd.functional.logits.class_mask` returns it.
    """
    dtype = common_dtype(student, teacher)
    teacher = teacher.detach()
    if dtype == torch.float64:
        student, teacher = student.double(), teacher.double()
    values = None if value_weight is None else value_weight.detach().to(dtype)
    ranks = rank_weight.detach().to(dtype)
    if is_traced():
        terms = _define_on_rows(student, teacher, (values, ranks), options, mask)
        return CorrelationTerms(terms[0], None if terms[1] is None else terms[1].detach(), terms[2].detach())
    if student.device.type == "cpu":
        student, teacher = (x.float() if x.dtype == torch.float16 else x for x in (student, teacher))
    weighted, pearson_term, spearman_term = _Fused.apply(student, teacher, values, ranks, mask, options)
    return CorrelationTerms(weighted, None if values is None else pearson_term, spearman_term)


@torch.no_grad()
def normalized_entropy(logits: Tensor, *, tau: float, mask: Tensor | None = None) -> Tensor:
    r"""Entropy of $\mathrm{softmax}(z / \tau)$ of the z-scores, divided by the log of the valid classes.

    1 for a row that is constant, has fewer than two valid classes, or holds NaN or infinity in a valid one.

    Args:
        logits: (N, C) or (N, C, *).
        tau: Temperature $\tau > 0$.
        mask: Valid classes, as `cmkd.functional.logits.class_mask` returns it.

    Returns:
        (N, *), in [0, 1], without gradient.
    """
    if not is_traced() and native.usable(logits, mask):
        return native.entropy(logits, tau, mask)
    shape = (logits.shape[0], *logits.shape[2:])
    if is_traced():
        valid = None if mask is None else as_rows(mask.expand(logits.shape))
        return _define_entropy(as_rows(logits), tau, valid).reshape(shape)
    parts = [_define_entropy(rows, tau, valid) for _, rows, _, valid in _chunks(logits, logits, mask)]
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
    ) -> tuple[Tensor, Tensor, Tensor]:
        gradient = ctx.needs_input_grad[0]
        compute = _compute_native if native.usable(student, teacher, mask) else _compute_in_chunks
        (weighted, values, ranks), slope = compute(
            student, teacher, (value_weight, rank_weight), options, mask, gradient
        )
        if values is None:
            values = ranks.new_empty(0)
        if gradient:
            ctx.save_for_backward(student, teacher, value_weight, rank_weight, mask, slope)
            ctx.options = options
        ctx.mark_non_differentiable(values, ranks)
        return weighted, values, ranks

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        student, teacher, value_weight, rank_weight, mask, slope = ctx.saved_tensors
        if not torch.is_grad_enabled():
            grad = slope * upstream.unsqueeze(1)
        else:
            # Somebody will differentiate this gradient: the saved one does not know its own slope.
            with torch.enable_grad():
                weights = (value_weight, rank_weight)
                terms = _define_on_rows(student, teacher, weights, ctx.options, mask)
                (grad,) = torch.autograd.grad(terms[0], student, upstream, create_graph=True)
        return grad, None, None, None, None, None


_Weights = tuple[Tensor | None, Tensor]
_Terms = tuple[Tensor, Tensor | None, Tensor]


def _compute_native(
    student: Tensor,
    teacher: Tensor,
    weights: _Weights,
    options: TermOptions,
    mask: Tensor | None,
    gradient: bool,
) -> tuple[_Terms, Tensor | None]:
    softness = options.softness
    if softness is None:
        softness = default_softness(options.method, student.shape[1])
    terms = native.terms(
        student,
        teacher,
        native.RankOptions(options.method, softness, number_of_knots(softness)),
        tau=options.tau,
        value_weight=weights[0],
        rank_weight=weights[1],
        mask=mask,
        gradient=gradient,
    )
    assert terms.spearman is not None
    return (_weigh(terms.pearson, terms.spearman, weights), terms.pearson, terms.spearman), terms.grad


def _compute_in_chunks(
    student: Tensor,
    teacher: Tensor,
    weights: _Weights,
    options: TermOptions,
    mask: Tensor | None,
    gradient: bool,
) -> tuple[_Terms, Tensor | None]:
    """Build and leave the graph of the definition chunk by chunk."""
    samples, classes, *positions = student.shape
    slope = (
        student.new_empty(student.numel() // classes, classes, dtype=_slope_dtype(student))
        if gradient
        else None
    )
    parts: list[_Terms] = []
    for here, rows, other, valid in _chunks(student, teacher, mask):
        values = None if weights[0] is None else weights[0].reshape(-1)[here]
        with torch.set_grad_enabled(gradient):
            leaf = rows.detach().requires_grad_(gradient)
            terms = _define(leaf, other, (values, weights[1].reshape(-1)[here]), options, valid)
            if slope is not None:
                slope[here] = torch.autograd.grad(terms[0].sum(), leaf)[0]
        parts.append((terms[0].detach(), None if terms[1] is None else terms[1].detach(), terms[2].detach()))
    weighted, pearson_term, spearman_term = (
        None if part[0] is None else torch.cat(part).reshape(samples, *positions)
        for part in zip(*parts, strict=True)
    )
    assert weighted is not None
    assert spearman_term is not None
    if slope is not None:
        slope = slope.reshape(samples, *positions, classes).movedim(-1, 1)
    return (weighted, pearson_term, spearman_term), slope


def _slope_dtype(student: Tensor) -> torch.dtype:
    """Return what the gradient is kept in: float16 would lose the small ones of many classes."""
    return torch.float32 if student.dtype == torch.float16 else student.dtype


def _chunks(
    x: Tensor, other: Tensor, mask: Tensor | None
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor | None]]:
    """Yield chunks of rows, as (M, C), after the slice of all rows that each of them is."""
    limit = CHUNK if x.device.type == "cpu" else CHUNK_ON_ACCELERATOR
    tensors = [t.expand(x.shape).reshape(*x.shape[:2], -1) for t in (x, other, mask) if t is not None]
    samples, classes = x.shape[:2]
    positions = x[0, 0].numel()
    step = max(1, limit // classes)
    for sample in range(0, samples, max(1, step // positions)):
        below = min(samples, sample + max(1, step // positions))
        for position in range(0, positions, step):
            end = min(positions, position + step)
            first, second, *flags = [as_rows(t[sample:below, :, position:end]) for t in tensors]
            rows = slice(sample * positions + position, (below - 1) * positions + end)
            yield rows, first, second, flags[0] if flags else None


def _define_on_rows(
    student: Tensor, teacher: Tensor, weights: _Weights, options: TermOptions, mask: Tensor | None
) -> _Terms:
    shape = (student.shape[0], *student.shape[2:])
    values, ranks = weights
    valid = None if mask is None else as_rows(mask.expand(student.shape))
    flat = (None if values is None else values.reshape(-1), ranks.reshape(-1))
    weighted, pearson_term, spearman_term = _define(as_rows(student), as_rows(teacher), flat, options, valid)
    if pearson_term is not None:
        pearson_term = pearson_term.reshape(shape)
    return weighted.reshape(shape), pearson_term, spearman_term.reshape(shape)


def _define(
    student: Tensor, teacher: Tensor, weights: _Weights, options: TermOptions, mask: Tensor | None
) -> _Terms:
    """Compute the weighted sum and both terms of (M, C) rows."""
    with full_precision(student):
        student, teacher = blank_rows(as_float(student), as_float(teacher), mask, dim=-1)
        soft = soft_rank(student, method=options.method, softness=options.softness, mask=mask)
        spearman_term = 1 - pearson(soft, exact_rank(teacher, mask=mask), mask=mask)
        pearson_term = None
        if weights[0] is not None:
            pearson_term = 1 - pearson(
                _soften(student, options.tau, mask), _soften(teacher, options.tau, mask), mask=mask
            )
        return _weigh(pearson_term, spearman_term, weights), pearson_term, spearman_term


def blank_rows(student: Tensor, teacher: Tensor, mask: Tensor | None, *, dim: int) -> tuple[Tensor, Tensor]:
    """Set rows with NaN or infinity in a valid place of either to 0, so that they count as constant."""
    finite = student.isfinite() & teacher.isfinite()
    comparable = (finite if mask is None else finite | ~mask).all(dim, keepdim=True)
    return torch.where(comparable, student, 0.0), torch.where(comparable, teacher, 0.0)


def _soften(rows: Tensor, tau: float, mask: Tensor | None) -> Tensor:
    return log_probabilities(standardize(rows, mask=mask), temperature=tau, mask=mask).exp()


def _weigh(pearson_term: Tensor | None, spearman_term: Tensor, weights: _Weights) -> Tensor:
    ranked = weights[1] * spearman_term
    if pearson_term is None or weights[0] is None:
        return ranked
    return weights[0] * pearson_term + ranked


def _define_entropy(rows: Tensor, tau: float, mask: Tensor | None) -> Tensor:
    with full_precision(rows):
        finite = rows.isfinite()
        finite = (finite if mask is None else finite | ~mask).all(-1, keepdim=True)
        z = standardize(torch.where(finite, as_float(rows), 0.0), mask=mask)
        count = torch.full_like(z[:, 0], z.shape[1]) if mask is None else mask.sum(-1, dtype=z.dtype)
        # One class has no entropy, and says as little as a constant row.
        share = entropy(z, temperature=tau, mask=mask) / count.clamp(min=2).log()
        return torch.where(count < 2, 1.0, share).clamp(0.0, 1.0)

"""The correlation terms by the Triton kernels: when these are taken, and CMKD as a whole in two launches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from cmkd.functional.chunks import compute_in_chunks
from cmkd.functional.definition import (
    TermOptions,
    Terms,
    Weights,
    define_entropy,
    define_terms,
    knots_of,
)
from cmkd.functional.gradient import backward
from cmkd.functional.logits import as_rows
from cmkd.functional.rank import exact_rank
from cmkd.kernels import switch

if TYPE_CHECKING:
    from cmkd.kernels.triton_rows import RowLoss

#: Whether Triton's interpreter may stand in on CPU, for tests.
INTERPRETED = False


class Weighting(NamedTuple):
    """How CMKD weighs its two terms by the difficulty of a sample."""

    scale: Literal["batch_rank", "none"]
    """How the entropy of the teacher becomes the weight w."""
    flip: bool
    """Take 1 - w."""
    convex: bool
    """(1 - w) P + w S, or else P + w S."""
    pearson_weight: float
    spearman_weight: float
    factor: float
    """Of the whole."""


class WholeLoss(NamedTuple):
    """CMKD of a batch; all but the loss are detached, (N, *)."""

    loss: Tensor
    """The sum over the batch, a scalar, or (N, *)."""
    pearson: Tensor
    spearman: Tensor
    weight: Tensor
    difficulty: Tensor


def usable(student: Tensor, teacher: Tensor, options: TermOptions, mask: Tensor | None) -> bool:
    """Whether the kernels take this input, and have been found to work on its device.

    The first call for each device, dtype and size of row compares them with the definition, and warns if
    they are wrong there.
    """
    if options.method != "binned" or not (student.is_cuda or INTERPRETED) or not switch.enabled():
        return False
    # Only here, because it has no business in a process without CUDA.
    from cmkd.kernels.triton_check import self_check
    from cmkd.kernels.triton_rows import supported

    rows, other = _outline(student.detach()), _outline(teacher)
    # The mask of one row, which stands for all.
    flags = None if mask is None else mask[(0, slice(None)) + (0,) * (mask.dim() - 2)]
    knots = knots_of(options, student.shape[1])
    if not supported(rows, other, knots=knots, mask=flags):
        return False
    return self_check(rows, knots=knots, masked=flags is not None, reference=_reference)


def compute_terms(
    student: Tensor,
    teacher: Tensor,
    weights: Weights,
    options: TermOptions,
    mask: Tensor | None,
    gradient: bool,
) -> tuple[Terms, Tensor | None]:
    """Compute the terms of input that is `usable`, and the gradient of their weighted sum."""
    from cmkd.kernels.triton_rows import cmkd_rows, spearman_rows

    shape = (student.shape[0], *student.shape[2:])
    knots, flags = knots_of(options, student.shape[1]), _mask_of_rows(mask, student)
    values, ranks = weights
    if values is None:
        rows = spearman_rows(_packed(student), _packed(teacher), knots=knots, mask=flags)
        slope = rows.grad * ranks.reshape(-1, 1) if gradient else None
        term = rows.spearman.reshape(shape)
        return (ranks * term, None, term), None if slope is None else _as_logits(slope, student)
    rows = cmkd_rows(
        _packed(student),
        _packed(teacher),
        knots=knots,
        tau=options.tau,
        mask=flags,
        weight=ranks.reshape(-1),
        value_weight=values.reshape(-1),
    )
    assert rows.pearson is not None
    terms = (rows.combined.reshape(shape), rows.pearson.reshape(shape), rows.spearman.reshape(shape))
    return terms, _as_logits(rows.grad, student) if gradient else None


def whole_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    options: TermOptions,
    weighting: Weighting,
    mask: Tensor | None,
    per_sample: bool,
) -> WholeLoss:
    """Compute CMKD of input that is `usable` in two launches; the gradient takes a third.

    Args:
        student: (N, C) or (N, C, *).
        teacher: Of the same shape.
        options: Soft rank and temperature.
        weighting: How the terms are weighed.
        mask: Valid classes, as `cmkd.functional.logits.check_logits` returns it.
        per_sample: Return one loss per sample and position, (N, *), in place of their sum.
    """
    return WholeLoss(*_Whole.apply(student, teacher.detach(), options, weighting, mask, per_sample))


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        options: TermOptions,
        weighting: Weighting,
        mask: Tensor | None,
        per_sample: bool,
    ) -> tuple[Tensor, ...]:
        shape = (student.shape[0], *student.shape[2:])
        rows = _rows(student, teacher, options, weighting, mask)
        assert rows.pearson is not None
        assert rows.weight is not None
        assert rows.hardness is not None
        weight = rows.weight.reshape(shape)
        ctx.slope = _as_logits(rows.grad, student)
        ctx.save_for_backward(student, teacher, weight, mask)
        ctx.options, ctx.weighting, ctx.per_sample = options, weighting, per_sample
        loss = rows.combined.reshape(shape) if per_sample else rows.total
        pearson, spearman, hardness = (x.reshape(shape) for x in (rows.pearson, rows.spearman, rows.hardness))
        others = (pearson, spearman, weight, hardness)
        ctx.mark_non_differentiable(*others)
        return loss, *others

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        student, teacher, weight, mask = ctx.saved_tensors

        def again() -> Tensor:
            return _as_logits(_rows(student, teacher, ctx.options, ctx.weighting, mask).grad, student)

        def define() -> Tensor:
            return define_terms(student, teacher, _weights(weight, ctx.weighting), ctx.options, mask)[0]

        grad = backward(ctx, upstream, student, again=again, define=define)
        return grad, None, None, None, None, None


def _rows(
    student: Tensor, teacher: Tensor, options: TermOptions, weighting: Weighting, mask: Tensor | None
) -> RowLoss:
    from cmkd.kernels.triton_rows import cmkd_rows

    return cmkd_rows(
        _packed(student),
        _packed(teacher),
        knots=knots_of(options, student.shape[1]),
        tau=options.tau,
        mask=_mask_of_rows(mask, student),
        weight=weighting.scale,
        flip=weighting.flip,
        convex=weighting.convex,
        pearson_weight=weighting.pearson_weight,
        spearman_weight=weighting.spearman_weight,
        scale=weighting.factor,
        rank=exact_rank,
    )


def _weights(weight: Tensor, weighting: Weighting) -> tuple[Tensor, Tensor]:
    """Return the factors of both terms for a weight w that is flipped already."""
    values = 1 - weight if weighting.convex else torch.ones_like(weight)
    factor = weighting.factor
    return factor * weighting.pearson_weight * values, factor * weighting.spearman_weight * weight


def _reference(student: Tensor, teacher: Tensor, *, knots: int, mask: Tensor | None) -> RowLoss:
    """Compute by the definition what `cmkd_rows` does by default."""
    from cmkd.kernels.triton_rows import RowLoss

    flags = None if mask is None else mask.expand(student.shape)
    hardness = define_entropy(teacher, 1.0, flags)
    weight = (exact_rank(hardness) - 0.5) / len(hardness)
    # So that rounding cannot make it one knot more.
    options = TermOptions("binned", (1 + 1e-9) * 2 / (knots - 1))
    terms, grad = compute_in_chunks(student, teacher, (1 - weight, weight), options, flags, gradient=True)
    assert grad is not None
    return RowLoss(
        combined=terms[0],
        total=terms[0].sum(),
        pearson=terms[1],
        spearman=terms[2],
        weight=weight,
        hardness=hardness,
        grad=grad,
    )


def _outline(logits: Tensor) -> Tensor:
    """Return a tensor of the shape, type and device that `_packed` gives, without a copy of the logits."""
    if logits.dim() == 2:
        return logits
    classes = logits.shape[1]
    return logits.new_empty(classes).expand(logits.numel() // classes, classes)


def _packed(logits: Tensor) -> Tensor:
    """Bring (N, C, *) to (M, C), each row without gaps; (N, C) stays as it is."""
    rows = as_rows(logits)
    return rows if logits.dim() == 2 or rows.stride(1) == 1 else rows.contiguous()


def _mask_of_rows(mask: Tensor | None, logits: Tensor) -> Tensor | None:
    """Bring a mask that broadcasts to the logits to (C,), if all samples share it, or else (M, C)."""
    if mask is None:
        return None
    if mask.numel() == logits.shape[1]:
        return mask.reshape(-1)
    return as_rows(mask.expand(logits.shape)).contiguous()


def _as_logits(rows: Tensor, logits: Tensor) -> Tensor:
    """Bring (M, C) to the shape of the logits, (N, C) or (N, C, *)."""
    samples, classes, *positions = logits.shape
    return rows.reshape(samples, *positions, classes).movedim(-1, 1)

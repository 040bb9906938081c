"""A loss of many rows, computed with its gradient on a bounded number of rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cmkd.functional.chunks import slope_dtype
from cmkd.functional.gradient import take_gradient

#: Values of the logits in one chunk, at most: a chunk's temporaries are about ten to twenty times as many.
CHUNK = 2**21
CHUNK_ON_ACCELERATOR = 2**24

#: Where the rows are: one index tensor (M,) per leading dimension of the logits.
Places = tuple[Tensor, ...]
#: Maps rows of the student, (m, V), where they are, and which slice of all M rows they are, to their share of
#: the loss: a scalar, or one value per row, (m,).
Share = Callable[[Tensor, Places, slice], Tensor]


def rows_at_once(logits: Tensor) -> int:
    """Return how many rows (..., V) of the logits make one chunk."""
    limit = CHUNK if logits.device.type == "cpu" else CHUNK_ON_ACCELERATOR
    return max(1, limit // logits.shape[-1])


def loss_in_chunks(student: Tensor, places: Places, share: Share, *, step: int, per_row: bool) -> Tensor:
    """Sum the shares of all rows, each chunk's gradient being taken before the next one is computed.

    Beside the logits, their gradient is kept for the backward pass and nothing else. Each row may depend on
    the student at its own place only. It cannot be differentiated twice.

    Args:
        student: Logits (..., V).
        places: The M rows that count.
        share: The loss of some of them.
        step: Rows to compute at a time.
        per_row: Whether shares are one value per row.

    Returns:
        The sum, a scalar; or, per row, the shape of the logits without V, with 0 for the rows that do not
        count.
    """
    if torch.is_grad_enabled() and student.requires_grad:
        return _InChunks.apply(student, places, share, step, per_row)
    return _compute(student, places, share, step, per_row, gradient=False)[0]


def _compute(
    student: Tensor, places: Places, share: Share, step: int, per_row: bool, *, gradient: bool
) -> tuple[Tensor, Tensor | None]:
    slope = torch.zeros_like(student, dtype=slope_dtype(student)) if gradient else None
    values = []
    for start in range(0, len(places[0]), step):
        here = slice(start, start + step)
        where = tuple(index[here] for index in places)
        with torch.set_grad_enabled(gradient):
            # In the type of the slope: autograd gives a gradient in that of what it is taken by.
            rows = student.detach()[where].to(slope_dtype(student)).requires_grad_(gradient)
            value = share(rows, where, here)
            if slope is not None:
                slope[where] = torch.autograd.grad(value.sum(), rows)[0]
        values.append(value.detach())
    if not per_row:
        return torch.stack(values).sum(), slope
    result = torch.zeros(student.shape[:-1], dtype=values[0].dtype, device=student.device)
    result[places] = torch.cat(values)
    return result, slope


class _InChunks(torch.autograd.Function):
    """Loss and gradient in the forward pass; the backward pass is one multiplication."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, places: Places, share: Share, step: int, per_row: bool) -> Tensor:
        value, slope = _compute(student, places, share, step, per_row, gradient=True)
        assert slope is not None
        ctx.save_for_backward(student)
        ctx.again, ctx.per_row = (places, share, step, per_row), per_row
        ctx.slope = slope.movedim(-1, 1)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (student,) = ctx.saved_tensors

        def again() -> Tensor:
            slope = _compute(student, *ctx.again, gradient=True)[1]
            assert slope is not None
            return slope.movedim(-1, 1)

        slope = take_gradient(ctx, upstream, per_sample=ctx.per_row, again=again)
        return slope.movedim(1, -1), None, None, None, None

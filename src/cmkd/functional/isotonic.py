"""Isotonic regression of many rows at once, as an operator of its own for vmap and torch.compile."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad


def isotonic_blocks(y: Tensor, count: Tensor | None = None) -> Tensor:
    r"""Find the blocks on which the non-increasing isotonic regression of every row is constant.

    The regression is the slope of the least concave majorant of the cumulative sums of the row, and its
    blocks lie between the corners of that majorant. They are found by divide and conquer, in all rows
    together: in every round each stretch between two known corners is split at the sum that lies highest
    above its chord, and whatever lies below the chord is dropped. For normal rows at the default softness of
    `soft_rank` that takes 8 rounds at C = 100 and 16 at C = 21841; each of them waits for the device.

    Args:
        y: Rows, (..., C), float32 or float64, finite.
        count: Number of values at the start of every row that belong together, (..., 1) or a scalar: no block
            reaches across that place. None for C.

    Returns:
        Index of the block of every entry, (..., C) int64, from 0 and rising along the row.
    """
    whole = y.new_full((), y.shape[-1]) if count is None else count
    blocks: Tensor = torch.ops.cmkd.isotonic_blocks(y.detach(), whole)
    return blocks


def _blocks(y: Tensor, count: Tensor) -> Tensor:
    classes = y.shape[-1]
    values = y.reshape(-1, classes)
    position = torch.arange(classes, device=y.device)
    outside = (position >= count).expand(y.shape).reshape(-1, classes)
    # Outside, an even slope far below all that is inside: a corner where it starts, and no other in it.
    low, high = values.aminmax(dim=-1, keepdim=True)
    values = torch.where(outside, 2 * low - high - 1, values)
    sums = pad((values - values.mean(-1, keepdim=True)).cumsum(-1), (1, 0))
    limits = torch.finfo(y.dtype)
    # In units of the row, so that one bound tells a corner from rounding.
    sums = (sums / sums.abs().amax(-1, keepdim=True).clamp(min=limits.tiny)).view(-1)
    corner = torch.zeros(len(values), classes + 1, dtype=torch.bool, device=y.device)
    corner[:, 0] = True
    # A sum between two rising values is no corner.
    point = pad(values[:, :-1] > values[:, 1:], (1, 1)).view(-1).nonzero().squeeze(-1)
    left = point // (classes + 1) * (classes + 1)
    right = left + classes
    while len(point):
        base = sums.index_select(0, left)
        chord = (sums.index_select(0, right) - base) * ((point - left) / (right - left))
        above = sums.index_select(0, point) - base - chord
        highest = torch.full_like(sums, 8 * limits.eps).scatter_reduce_(0, left, above, "amax")
        found = above == highest.index_select(0, left)
        new = point.index_select(0, found.nonzero().squeeze(-1))
        corner.view(-1).index_fill_(0, new, True)
        # What remains lies between the nearest corners on either side.
        rest = ((above > 8 * limits.eps) & ~found).nonzero().squeeze(-1)
        passed = found.cumsum(0).index_select(0, rest)
        point, left, right = (index.index_select(0, rest) for index in (point, left, right))
        left = torch.maximum(left, pad(new, (1, 0)).index_select(0, passed))
        right = torch.minimum(right, pad(new, (0, 1), value=len(sums)).index_select(0, passed))
    return (corner[:, :-1].cumsum(-1) - 1).view(y.shape)


def _over_batch(
    info: Any, in_dims: tuple[int | None, int | None], y: Tensor, count: Tensor
) -> tuple[Tensor, int]:
    """Take the dimension of vmap as one more of the leading dimensions of the rows."""
    y = y.expand(info.batch_size, *y.shape) if in_dims[0] is None else y.movedim(in_dims[0], 0)
    if in_dims[1] is not None:
        count = count.movedim(in_dims[1], 0)
        # A scalar per row of the batch broadcasts from the left.
        count = count.reshape(len(count), *[1] * (y.dim() - count.dim()), *count.shape[1:])
    return torch.ops.cmkd.isotonic_blocks(y, count), 0


torch.library.define("cmkd::isotonic_blocks", "(Tensor y, Tensor count) -> Tensor")
torch.library.impl("cmkd::isotonic_blocks", "default", _blocks)
torch.library.register_fake("cmkd::isotonic_blocks", lambda y, count: torch.empty_like(y, dtype=torch.int64))
torch.library.register_vmap("cmkd::isotonic_blocks", _over_batch)

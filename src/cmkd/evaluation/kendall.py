"""Kendall's tau-b of many pairs of rows at once."""

from __future__ import annotations

import torch
from torch import Tensor

from cmkd.functional import exact_rank


def kendall_tau(x: Tensor, y: Tensor) -> Tensor:
    """Return Kendall's tau-b of every row of `x` with that of `y`.

    By Knight 1966 (J. Am. Stat. Assoc. 61, 436): with the classes in the order of `x`, the discordant pairs
    are the inversions of `y`, which are counted while sorted blocks of all rows are merged, in
    O(C log² C) for a row. A constant row gives 0 (SciPy gives NaN), as with the other correlations.

    Args:
        x: Tensor `(N, C)`, without NaN.
        y: Tensor of the same shape.

    Returns:
        float64 `(N,)`, in [-1, 1].

    Example:
        >>> kendall_tau(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 3.0, 2.0]]))
        tensor([0.3333], dtype=torch.float64)
    """
    # Twice the average ranks are integers, equal for tied values: nothing is rounded from here on.
    ranks_x, ranks_y = ((2 * exact_rank(each.double())).long() for each in (x, y))
    width = x.shape[1]
    joint = ranks_x * (2 * width + 1) + ranks_y
    ordered, order = joint.sort(1)
    discordant = _inversions(ranks_y.gather(1, order))
    pairs = width * (width - 1) / 2
    tied_x, tied_y = _tied_pairs(ranks_x.sort(1).values), _tied_pairs(ranks_y.sort(1).values)
    difference = pairs - tied_x - tied_y + _tied_pairs(ordered) - 2 * discordant
    scale = ((pairs - tied_x) * (pairs - tied_y)).sqrt()
    return torch.where(scale > 0, difference / scale.clamp(min=1), 0.0).clamp(-1, 1)


def _tied_pairs(ordered: Tensor) -> Tensor:
    """Return for every sorted row how many pairs of equal values it has, float64 `(N,)`."""
    # A value that is the k-th of its kind is tied with k - 1 before it.
    position = torch.arange(ordered.shape[1], device=ordered.device).expand_as(ordered)
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = torch.where(begins, position, 0).cummax(1).values
    return (position - first).sum(1).double()


def _inversions(rows: Tensor) -> Tensor:
    """Return for every row how many pairs stand in falling order, float64 `(N,)`."""
    count, width = rows.shape
    padded = 1 << max(width - 1, 1).bit_length()
    # What is added stands behind all others and is larger: it makes no inversion.
    rows = torch.nn.functional.pad(rows, (0, padded - width), value=2 * width + 1)
    found = torch.zeros(count, dtype=torch.int64, device=rows.device)
    block = 1
    while block < padded:
        halves = rows.view(count, -1, 2, block)
        left, right = halves[:, :, 0].contiguous(), halves[:, :, 1].contiguous()
        below = torch.searchsorted(left, right, right=True)
        found += (block - below).sum((1, 2))
        rows = halves.flatten(2).sort(2).values.flatten(1)
        block *= 2
    return found.double()

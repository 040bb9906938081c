"""Soft rank as the projection onto the permutahedron (Blondel et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from cmkd.functional.isotonic import isotonic_blocks
from cmkd.functional.masking import valid_count
from cmkd.functional.precision import as_double


def standardized_permutahedron_rank(z: Tensor, softness: float, mask: Tensor | None = None) -> Tensor:
    """Return `permutahedron_rank` of standardised rows, with softness over valid values as the strength."""
    return permutahedron_rank(z, softness / valid_count(as_double(z), mask, -1).clamp(min=1), mask)


def permutahedron_rank(x: Tensor, strength: float | Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Return the Euclidean projection of $x / \varepsilon$ onto the permutahedron of $(C, \dots, 1)$.

    With $s$ the row $x / \varepsilon$ in descending order and $w = (C, \dots, 1)$, the projection is
    $s - v$, $v$ the non-increasing isotonic regression of $s - w$ (Blondel et al. 2020, proposition 3).
    Its optimum is constant on blocks of neighbours, so it equals $(s - \bar s_B) + \bar w_B$ with the means
    over the block, which is how it is computed: a value alone in its block gets its exact rank.

    In float64 whatever the input, on all devices that have it: where $x / \varepsilon$ nears $2^{24}$,
    float32 loses the unit steps of $w$, and tied values no longer share their rank.

    Args:
        x: Rows, (..., C), float32 or float64.
        strength: Regularisation strength $\varepsilon$, in the units of `x`; a tensor if rows differ,
            (..., 1).
        mask: Valid places, bool, of the same shape; None if all are.

    Returns:
        Soft ranks, (..., C), 0 in masked places.
    """
    wide = as_double(x)
    count = valid_count(wide, mask, -1)
    position = torch.arange(x.shape[-1], dtype=wide.dtype, device=x.device)
    # Masked values come last, in blocks of their own.
    key = wide if mask is None else torch.where(mask, wide, -torch.inf)
    ordered, order = key.sort(dim=-1, descending=True)
    # The rank does not feel an offset of the row, the rounding does.
    middle = ordered.detach().gather(-1, (count / 2).long().expand(*x.shape[:-1], 1))
    ordered = (ordered - middle) / strength
    if mask is not None:
        ordered = torch.where(position < count, ordered, 0.0)
    weight = (count - position).expand_as(ordered)
    # No block spans a gap of C. A wider one would only drown the other values in rounding.
    gap = (ordered[..., :-1] - ordered[..., 1:]).detach().clamp(0, x.shape[-1])
    block = isotonic_blocks(-pad(gap, (1, 0)).cumsum(-1) - weight, count)
    size = torch.zeros_like(weight).scatter_add(-1, block, torch.ones_like(weight)).clamp(min=1)
    # The mean over the block, of what the blocks do not change at once and of what they do.
    rank = ordered - _block_mean(ordered, block, size) + _block_mean(weight, block, size)
    rank = torch.zeros_like(rank).scatter(-1, order, rank).to(x.dtype)
    return rank if mask is None else torch.where(mask, rank, 0.0)


def _block_mean(values: Tensor, block: Tensor, size: Tensor) -> Tensor:
    total = torch.zeros_like(values).scatter_add(-1, block, values)
    return (total / size).gather(-1, block)

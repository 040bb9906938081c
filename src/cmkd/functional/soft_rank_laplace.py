"""Soft rank as the empirical distribution function of the row, smoothed by a Laplace kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from cmkd.functional.masking import valid_count
from cmkd.functional.precision import as_double

# Below this softness float32 cannot hold z / softness and still tell a tie from a small gap.
_SHARP = 0.01


def laplace_rank(z: Tensor, softness: float, mask: Tensor | None = None) -> Tensor:
    r"""Return $R_i = \tfrac12 + \sum_j F((z_i - z_j) / b)$ for every row, in O(C log C).

    With the row sorted, the sum over the pairs splits into what lies below and what lies above position
    $i$: $R_i = i - P_i / 2 + Q_i / 2$ with $P_i = \sum_{j \le i} e^{-(z_i - z_j) / b}$ and
    $Q_i = \sum_{j \ge i} e^{-(z_j - z_i) / b}$, both of which are cumulative sums in log space.

    Args:
        z: Standardised rows, (..., C), float32 or float64.
        softness: Width b of the kernel, in the units of `z`.
        mask: Valid places, bool, of the same shape; None if all are.

    Returns:
        Soft ranks, (..., C), 0 in masked places.
    """
    wide = as_double(z) if softness < _SHARP else z
    scaled = wide / softness
    if mask is not None:
        # So far above the largest value that they weigh nothing there, exp(-1000) being 0.
        top = scaled.detach().amax(-1, keepdim=True)
        scaled = torch.where(mask, scaled, 2 * top + 1000)
    ordered, order = scaled.sort(dim=-1)
    below = (ordered.logcumsumexp(-1) - ordered).exp()
    above = ((-ordered).flip(-1).logcumsumexp(-1).flip(-1) + ordered).exp()
    position = torch.arange(1, z.shape[-1] + 1, dtype=wide.dtype, device=z.device)
    rank = position + (above - below) / 2
    # exp(log i) is not quite i. Correlations standardise a row, so for a constant one that rounding would
    # be all there is to see.
    constant = (z == 0).all(-1, keepdim=True)
    rank = torch.where(constant, (valid_count(wide, mask, -1) + 1) / 2, rank)
    rank = torch.zeros_like(rank).scatter(-1, order, rank).to(z.dtype)
    return rank if mask is None else torch.where(mask, rank, 0.0)

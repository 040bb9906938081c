"""Soft rank as the empirical distribution function of the row, smoothed by a Laplace kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

# Beyond these a softness acts as 0 or as infinity, but would leave the range of float32.
_SHARPEST, _SOFTEST = 1e-30, 1e30


def laplace_rank(z: Tensor, softness: float, mask: Tensor | None = None) -> Tensor:
    r"""Return $R_i = \tfrac12 + \sum_j F((z_i - z_j) / b)$ for every row, in O(C log C).

    With the row sorted, the sum over the pairs splits into what lies below and what lies above position
    $i$: $R_i = i - P_i / 2 + Q_i / 2$ with $P_i = \sum_{j \le i} e^{-(z_i - z_j) / b}$ and
    $Q_i = \sum_{j \ge i} e^{-(z_j - z_i) / b}$. Both are first-order recurrences along the row, and so is all
    that its gradient needs: nothing but the sort costs more than O(C).

    Args:
        z: Standardised rows, (..., C), float32 or float64.
        softness: Width b of the kernel, in the units of `z`.
        mask: Valid places, bool, of the same shape; None if all are.

    Returns:
        Soft ranks, (..., C), 0 in masked places.
    """
    width = min(max(softness, _SHARPEST), _SOFTEST)
    if mask is not None:
        # So far above the largest value that they weigh nothing there, exp(-1000) being 0.
        top = z.detach().amax(-1, keepdim=True)
        z = torch.where(mask, z, 2 * top + 1000 * width)
    ordered, order = z.sort(dim=-1)
    rank = _OrderedRank.apply(ordered, width)
    rank = torch.zeros_like(rank).scatter(-1, order, rank)
    return rank if mask is None else torch.where(mask, rank, 0.0)


class _OrderedRank(torch.autograd.Function):
    """The rank of rows in ascending order.

    Its derivative is the symmetric matrix (diag(K 1) - K) / 2b, K the kernel between all pairs. The product
    with it is made of differentiable operations on the input, so that it can be differentiated again.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(ordered: Tensor, width: float) -> Tensor:
        one = torch.ones_like(ordered)
        below, above = _decayed_sums(one, one, _decay(ordered, width))
        position = torch.arange(1, ordered.shape[-1] + 1, dtype=ordered.dtype, device=ordered.device)
        return position + (above - below) / 2

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ordered, ctx.width = inputs
        ctx.save_for_backward(ordered)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        (ordered,) = ctx.saved_tensors
        decay, one = _decay(ordered, ctx.width), torch.ones_like(ordered)
        below, above = _decayed_sums(one, one, decay)
        # The sums of K_ij (g_j - g_i) over j <= i and over j >= i, for the slope g. As differences, since the
        # rounding of sums of g would be divided by the width: ties of equal slope have to give zero.
        change = decay[..., 1:] * (slope[..., 1:] - slope[..., :-1])
        below, above = _decayed_sums(
            pad(-change * below[..., :-1], (1, 0)), pad(change * above[..., 1:], (0, 1)), decay
        )
        return (below + above) * (-0.5 / ctx.width), None


def _decay(ordered: Tensor, width: float) -> Tensor:
    """Return the kernel between every value and the one before it, 0 for the first of the row.

    From the gaps, which are exact where it matters: ties have decay 1 at any width.
    """
    return pad(((ordered[..., :-1] - ordered[..., 1:]) / width).exp(), (1, 0))


def _decayed_sums(before: Tensor, after: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
    r"""Solve $p_i = b_i + d_i p_{i-1}$ forwards and $s_i = a_i + d_{i+1} s_{i+1}$ backwards along the row.

    By halves: with the values at even places folded into their neighbours, those at odd places obey
    recurrences of the same form. O(C) in 2 log2 C vectorised rounds, and no factor exceeds 1.

    Args:
        before: b, (..., C).
        after: a, (..., C).
        decay: d, (..., C), from 0 to 1, with 0 at the start of the row.

    Returns:
        p and s, (..., C).
    """
    length = decay.shape[-1]
    if length == 1:
        return before, after
    if length % 2:
        below, above = _decayed_sums(pad(before, (0, 1)), pad(after, (0, 1)), pad(decay, (0, 1)))
        return below[..., :-1], above[..., :-1]
    (b0, b1), (a0, a1), (d0, d1) = (
        (values[..., ::2], values[..., 1::2]) for values in (before, after, decay)
    )
    below, above = _decayed_sums(b1 + d1 * b0, a1 + pad((d0 * a0)[..., 1:], (0, 1)), d0 * d1)
    below_even = b0 + d0 * pad(below[..., :-1], (1, 0))
    above_even = a0 + d1 * above
    return (
        torch.stack((below_even, below), -1).flatten(-2),
        torch.stack((above_even, above), -1).flatten(-2),
    )

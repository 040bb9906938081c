"""Soft rank from a histogram on fixed knots: no sort."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

# Every row has a histogram of its own: a finer one costs memory, and float32 places values hardly better.
MOST_KNOTS = 65_536


def binned_rank(z: Tensor, softness: float, mask: Tensor | None = None) -> Tensor:
    r"""Return the rank by a piecewise linear empirical distribution function of every row, in O(C + K).

    The values are squashed into (-1, 1) by softsign, $u = z / (1 + |z|)$, and each is shared linearly
    between the two of the $K = \lceil 2 / softness \rceil + 1$ uniform knots around it. The rank is the
    number of values below, read off the cumulative histogram by the same linear interpolation.

    The softness therefore sets the cost. It acts between 3e-5, where K reaches its most, 65,536, and 2: from
    there on K stays at its least, 2, which makes the rank an affine function of u.

    Args:
        z: Standardised rows, (..., C), float32 or float64.
        softness: Distance of the knots, in the units of `z` near 0.
        mask: Valid places, bool, of the same shape; None if all are.

    Returns:
        Soft ranks, (..., C), 0 in masked places.
    """
    knots = number_of_knots(softness)
    place = (z / (1 + z.abs()) + 1) * ((knots - 1) / 2)
    left = place.detach().floor().long().clamp(0, knots - 2)
    right_share = place - left
    left_share = 1 - right_share
    if mask is not None:
        left_share, right_share = torch.where(mask, left_share, 0.0), torch.where(mask, right_share, 0.0)

    histogram = torch.zeros(*z.shape[:-1], knots, dtype=z.dtype, device=z.device)
    histogram = histogram.scatter_add(-1, left, left_share).scatter_add(-1, left + 1, right_share)
    # A knot counts half of its own values as below it, which keeps ranks symmetric and ties averaged.
    below = _running_sum(histogram) - histogram / 2
    rank = 0.5 + left_share * below.gather(-1, left) + right_share * below.gather(-1, left + 1)
    return rank if mask is None else torch.where(mask, rank, 0.0)


def _running_sum(x: Tensor) -> Tensor:
    """Return the sums along a row; in deterministic mode on CUDA, where older torch has none, by doubling."""
    if x.device.type == "cuda" and torch.are_deterministic_algorithms_enabled():
        return _sum_by_doubling(x)
    return x.cumsum(-1)


def _sum_by_doubling(x: Tensor) -> Tensor:
    """Return `x.cumsum(-1)` in log2(K) additions, which are the same in every run."""
    reach = 1
    while reach < x.shape[-1]:
        x = x + pad(x[..., :-reach], (reach, 0))
        reach *= 2
    return x


def number_of_knots(softness: float) -> int:
    """Return how many knots, uniform over (-1, 1), are `softness` apart."""
    return math.ceil(min(2 / softness, MOST_KNOTS - 1)) + 1

"""Standardisation (z-scores) that survives constant, huge and tiny rows."""

from __future__ import annotations

import torch
from torch import Tensor

from cmkd.functional.masking import expand_mask, fill_masked, valid_count
from cmkd.functional.precision import as_float, full_precision


def standardize(x: Tensor, dim: int = -1, *, correction: int = 0, mask: Tensor | None = None) -> Tensor:
    r"""Subtract the mean along `dim` and divide by the standard deviation: $z = (x - \bar x) / \sigma$.

    A constant row has no z-score; it gives exact zeros, with zero gradient. So does a row whose values
    differ by no more than the rounding of their size (16 units in the last place of the largest), or that is
    all below 1e-35: such differences are noise, and would get a gradient of their reciprocal. Every other
    row keeps its gradient, which is of size $1 / \sigma$ and so is huge for a tiny row around 0.

    The row is first shifted by its maximum and scaled by its range, which changes nothing in $z$ but keeps
    the squares away from overflow and underflow, so rows around 1e30 or 1e-30 are as good as any other.

    Args:
        x: Tensor of any shape. Half precision is computed and returned in float32.
        dim: The dimension that holds one row.
        correction: Subtracted from the count in the variance; 1 gives the unbiased estimate.
        mask: bool, True for every valid value, of a shape that broadcasts to that of `x`: typically (C,) or
            (M, C) for rows along the last dimension. The rest is treated as if it did not exist, whatever
            its values (NaN included), and gives 0 with zero gradient.

    Returns:
        Tensor of the shape of `x`, in units of standard deviations. NaN or infinity in a row makes
        that row NaN.

    Raises:
        InputError: The mask is not bool, or does not broadcast.

    Example:
        >>> import torch
        >>> standardize(torch.tensor([[1.0, 2.0, 3.0], [7.0, 7.0, 7.0]]))
        tensor([[-1.2247,  0.0000,  1.2247],
                [ 0.0000,  0.0000,  0.0000]])
    """
    with full_precision(x):
        # Halved, so that even a row from -float max to +float max has a finite range.
        valid = expand_mask(mask, x)
        half = fill_masked(as_float(x), valid, dim) * 0.5
        top, spread, constant = _range(half.detach(), dim)
        # Values and gradients of a constant row vanish against infinity.
        scaled = (half - top) / torch.where(constant, torch.inf, spread)
        # Masked places hold the largest valid value, which is 0 by now.
        count = valid_count(half, valid, dim)
        centred = scaled - scaled.sum(dim, keepdim=True) / count.clamp(min=1)
        if valid is not None:
            centred = torch.where(valid, centred, 0.0)
        variance = centred.square().sum(dim, keepdim=True) / (count - correction).clamp(min=1)
        return centred * torch.where(constant, 1.0, variance).rsqrt()


def is_constant(x: Tensor, dim: int = -1, *, mask: Tensor | None = None) -> Tensor:
    """Whether `standardize` counts each row as constant; shape of `x` with `dim` of size 1."""
    return _range(fill_masked(as_float(x), expand_mask(mask, x), dim).detach() * 0.5, dim)[2]


def _range(half: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return top and width of every row, and whether it is constant but for rounding."""
    top, bottom = half.amax(dim, keepdim=True), half.amin(dim, keepdim=True)
    spread = top - bottom
    limits = torch.finfo(half.dtype)
    noise = 16 * limits.eps * torch.maximum(top.abs(), bottom.abs())
    # Below the second bound the reciprocal, the size of the gradient, would leave the floating range.
    # Strictly less, so that an infinite value is not below its own infinite noise but gives NaN.
    return top, spread, spread < noise.clamp(min=1024 * limits.tiny)

"""Masks of the valid values in a row: the rest is treated as if it did not exist."""

from __future__ import annotations

import torch
from torch import Tensor

from cmkd.errors import InputError


def expand_mask(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """Check a mask and give it the shape of the tensor that it belongs to.

    Args:
        mask: bool, True for valid values, of a shape that broadcasts to that of `x`; or None.
        x: Tensor of any shape.

    Returns:
        The mask in the shape of `x`, without a copy; None if there is none.

    Raises:
        InputError: The mask is not bool, or does not broadcast.
    """
    if mask is None:
        return None
    if mask.dtype != torch.bool:
        raise InputError(f"mask has dtype {mask.dtype}: give torch.bool, True for every valid class.")
    sizes = zip(reversed(mask.shape), reversed(x.shape), strict=False)
    if mask.dim() > x.dim() or any(given not in (1, wanted) for given, wanted in sizes):
        raise InputError(
            f"mask has shape {tuple(mask.shape)}, which does not broadcast to {tuple(x.shape)}: give one flag"
            " per class, or per class and sample."
        )
    return mask.expand(x.shape)


def fill_masked(x: Tensor, mask: Tensor | None, dim: int) -> Tensor:
    """Put the largest valid value of its row in every masked place; no gradient gets there.

    That value can neither widen the range of the row nor overflow. A row without a valid value takes the
    lowest number there is.

    Args:
        x: Tensor of any shape and any real dtype.
        mask: bool of the same shape, or None, which leaves `x` as it is.
        dim: The dimension that holds one row.

    Returns:
        Tensor of the shape of `x`, in which nothing depends on the masked values.
    """
    if mask is None:
        return x
    limits = torch.finfo(x.dtype) if x.is_floating_point() else torch.iinfo(x.dtype)
    top = torch.where(mask, x.detach(), limits.min).amax(dim, keepdim=True)
    return torch.where(mask, x, top)


def valid_count(x: Tensor, mask: Tensor | None, dim: int) -> Tensor:
    """Count the valid values of every row.

    Args:
        x: Tensor of any shape.
        mask: bool of the same shape, or None.
        dim: The dimension that holds one row.

    Returns:
        In the dtype of `x`: a scalar without a mask, else the shape of `x` with `dim` of size 1.
    """
    if mask is None:
        return x.new_full((), x.shape[dim] if x.dim() else 1)
    return mask.sum(dim, keepdim=True, dtype=x.dtype)


def as_rows(x: Tensor, dim: int) -> Tensor:
    """Move `dim` to the end; a scalar becomes a row of one."""
    return x.movedim(dim, -1) if x.dim() else x.reshape(1)


def from_rows(rows: Tensor, dim: int, like: Tensor) -> Tensor:
    """Undo `as_rows` for a tensor that was made from `like`."""
    return rows.movedim(-1, dim) if like.dim() else rows.reshape(())

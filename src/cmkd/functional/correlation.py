"""Correlation of rows: by value (Pearson) and by rank (Spearman)."""

from __future__ import annotations

from torch import Tensor

from cmkd.errors import InputError
from cmkd.functional.masking import expand_mask, valid_count
from cmkd.functional.normalization import standardize
from cmkd.functional.precision import full_precision
from cmkd.functional.rank import exact_rank


def pearson(x: Tensor, y: Tensor, dim: int = -1, *, mask: Tensor | None = None) -> Tensor:
    r"""Pearson correlation $r$ of the rows of `x` with the rows of `y`.

    Differentiable in both. Where either row is constant the correlation is undefined (SciPy gives NaN);
    here it is 0 with zero gradient, so that one dead row cannot spoil a batch.

    Args:
        x: Tensor of any shape. Half precision is computed and returned in float32.
        y: Tensor of the same shape.
        dim: The dimension that holds one row.
        mask: bool, True for every valid class, of a shape that broadcasts to that of `x`: typically (C,) or
            (M, C) for rows along the last dimension. The rest counts in neither row, whatever its values (NaN
            included); fewer than two valid classes give 0, as a constant row does.

    Returns:
        Tensor of that shape without `dim`, in [-1, 1].

    Raises:
        InputError: The shapes differ; the mask is not bool, or does not broadcast.

    Example:
        >>> import torch
        >>> pearson(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 2.0, 3.0, 10.0]))
        tensor(0.8854)
    """
    _check_same_shape(x, y)
    with full_precision(x):
        valid = expand_mask(mask, x)
        product = standardize(x, dim, mask=valid) * standardize(y, dim, mask=valid)
        r = (product.sum(dim, keepdim=True) / valid_count(product, valid, dim).clamp(min=1)).squeeze(dim)
        # Rounding can leave [-1, 1] by an ulp. Corrected in the value only: a clamped gradient would
        # be zero just where the last of the fit is still to be learnt.
        return r + (r.clamp(-1.0, 1.0) - r).detach()


def spearman(x: Tensor, y: Tensor, dim: int = -1, *, mask: Tensor | None = None) -> Tensor:
    r"""Spearman rank correlation $\rho$ of the rows of `x` with the rows of `y`.

    Exact, with tied values sharing their average rank, and therefore without gradient: train with
    `pearson(soft_rank(x), exact_rank(y))` instead. A constant row gives 0 (SciPy gives NaN).

    Args:
        x: Tensor of any shape, without NaN.
        y: Tensor of the same shape.
        dim: The dimension that holds one row.
        mask: bool, True for every valid class, of a shape that broadcasts to that of `x`: typically (C,) or
            (M, C) for rows along the last dimension. The rest counts in neither row, whatever its values (NaN
            included); fewer than two valid classes give 0, as a constant row does.

    Returns:
        Tensor of that shape without `dim`, in [-1, 1].

    Raises:
        InputError: The shapes differ; the mask is not bool, or does not broadcast.

    Example:
        >>> import torch
        >>> spearman(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 20.0, 3.0, 300.0]))
        tensor(0.8000)
    """
    _check_same_shape(x, y)
    valid = expand_mask(mask, x)
    return pearson(exact_rank(x, dim, mask=valid), exact_rank(y, dim, mask=valid), dim, mask=valid)


def _check_same_shape(x: Tensor, y: Tensor) -> None:
    """Refuse to broadcast: a correlation with a row of another sample is never what was meant."""
    if x.shape != y.shape:
        raise InputError(
            f"cannot correlate shapes {tuple(x.shape)} and {tuple(y.shape)}: give both the same shape"
            " (expand one of them yourself if a row should be compared with many)."
        )

"""Ranks of the values in a row: exact, and soft ones that carry a gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

from cmkd.errors import InputError, unknown_name
from cmkd.functional.compiled_rank import compiled_exact_rank, compiled_soft_rank
from cmkd.functional.masking import as_rows, expand_mask, fill_masked, from_rows, valid_count
from cmkd.functional.normalization import standardize
from cmkd.functional.precision import as_float, float_dtype, full_precision
from cmkd.functional.soft_rank_binned import binned_rank, number_of_knots
from cmkd.functional.soft_rank_l2 import permutahedron_rank, standardized_permutahedron_rank
from cmkd.functional.soft_rank_laplace import laplace_rank
from cmkd.functional.tracing import is_traced
from cmkd.kernels import native
from cmkd.kernels.native import RankOptions

RankMethod = Literal["binned", "laplace", "l2"]

# Least and largest default softness, in standard deviations. Below the least little is gained, and the binned
# rank would need more knots than a GPU has registers for; above the largest the bias grows (docs/ranking.md).
_DEFAULT_RANGE = {"binned": (1 / 32, 0.25), "laplace": (0.02, 0.3)}


@torch.no_grad()
def exact_rank(x: Tensor, dim: int = -1, *, mask: Tensor | None = None) -> Tensor:
    """Rank of every value within its row: 1 for the smallest, tied values share their average rank.

    Args:
        x: Tensor of any shape, without NaN.
        dim: The dimension that holds one row of length C.
        mask: bool, True for every valid value, of a shape that broadcasts to that of `x`: typically (C,) or
            (M, C) for rows along the last dimension. The rest is treated as if it did not exist, whatever
            its values (NaN included), and has rank 0.

    Returns:
        Tensor of the shape of `x`, without gradient, in multiples of one half from 1 to C; float64 if `x`
        is float64, else float32.

    Raises:
        InputError: The mask is not bool, or does not broadcast.

    Example:
        >>> import torch
        >>> exact_rank(torch.tensor([0.3, -1.0, 0.3, 2.0]))
        tensor([2.5000, 1.0000, 2.5000, 4.0000])
    """
    if x.dtype == torch.float16:
        x = x.float()
    if not is_traced() and native.usable(x, mask=mask):
        return compiled_exact_rank(x, dim, expand_mask(mask, x))
    # bfloat16 and float16 embed in float32 exactly; integers stay integers, which keeps every tie.
    values = as_float(x) if x.is_floating_point() or x.dtype == torch.bool else x
    valid = expand_mask(mask, values)
    valid = None if valid is None else as_rows(valid, dim)
    rows = fill_masked(as_rows(values, dim), valid, -1)
    ordered, order = rows.sort(dim=-1)
    position = torch.arange(1, rows.shape[-1] + 1, dtype=float_dtype(x), device=x.device).expand_as(ordered)
    step = ordered[..., 1:] != ordered[..., :-1]
    # Where it costs nothing to look (on CPU), rows without a tie are done already.
    if x.device.type != "cpu" or is_traced() or not step.all():
        # A run of equal values takes the mean of its first and its last position.
        first = torch.where(pad(step, (1, 0), value=True), position, 0.0).cummax(-1).values
        last = torch.where(pad(step, (0, 1), value=True), position, torch.inf).flip(-1).cummin(-1).values
        position = (first + last.flip(-1)) / 2
    rank = torch.zeros_like(position).scatter(-1, order, position)
    if valid is not None:
        # The masked places share the rank of the largest value, and lift it by half of their number.
        surplus = (rows.shape[-1] - valid_count(rank, valid, -1)) / 2
        rank = torch.where(rows == rows.amax(-1, keepdim=True), rank - surplus, rank)
        rank = torch.where(valid, rank, 0.0)
    return from_rows(rank, dim, x)


def soft_rank(
    x: Tensor,
    *,
    method: RankMethod = "binned",
    softness: float | None = None,
    strength: float | None = None,
    dim: int = -1,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Differentiable rank of every value within its row, ascending from 1.

    Every row is standardised first, so the result does not change when a row is shifted or scaled, and
    `softness` means the same for 10, 100 and 1000 classes. Soft ranks tend to `exact_rank` as the softness
    tends to 0; they always sum to C (C + 1) / 2, and a constant row gives (C + 1) / 2 everywhere with zero
    gradient.

    - `"laplace"`: smoothed empirical distribution of the row,
      $R_i = \tfrac12 + \sum_j F\big((z_i - z_j) / b\big)$, $F$ the Laplace distribution function and
      softness $b$ in standard deviations of the row. O(C log C).
    - `"binned"`: the same idea on fixed knots, whose spacing is the softness (in standard deviations near
      the middle of the row). No sort, O(C + 2 / softness). Softness saturates at 2, where two knots are left,
      and below 3e-5, where there are 65,536.
    - `"l2"`: projection onto the permutahedron (Blondel et al. 2020, Fast Differentiable Sorting and
      Ranking, eq. 6). The softness $k$ stands for the strength $\varepsilon = k / C$ on the standardised
      row. Once every adjacent gap is below $\varepsilon$ this rank is an affine function of the values.

    Args:
        x: Tensor of any shape. Half precision is computed and returned in float32.
        method: `"binned"`, `"laplace"` or `"l2"`.
        softness: See above; `default_softness(method, C)` if None.
        strength: For `"l2"` only, instead of `softness`: the raw regularisation strength on the raw `x`, as
            in torchsort and fast-soft-sort.
        dim: The dimension that holds one row of length C.
        mask: bool, True for every valid value, of a shape that broadcasts to that of `x`: typically (C,) or
            (M, C) for rows along the last dimension. The rest is treated as if it did not exist, whatever
            its values (NaN included), and has rank 0 with zero gradient. The default softness remains that of
            C; the strength k / C of `"l2"` takes the number of valid values for C.

    Returns:
        Tensor of the shape of `x`, between 1/2 and C + 1/2.

    Raises:
        InputError: Unknown method; softness or strength not positive; strength without `"l2"` or beside
            softness; the mask is not bool, or does not broadcast.

    Example:
        >>> import torch
        >>> x = torch.tensor([0.0, 1.0, 2.0, 10.0])
        >>> soft_rank(x, method="laplace", softness=0.3)
        tensor([1.3085, 2.0003, 2.6922, 3.9990])
        >>> soft_rank(x, method="l2", strength=2.0)
        tensor([1.5000, 2.0000, 2.5000, 4.0000])
    """
    check_rank_options(method, softness, strength)
    if x.dtype == torch.float16 and x.device.type == "cpu":
        x = x.float()
    valid = expand_mask(mask, x)
    if softness is not None:
        softness = bounded_softness(softness)
    elif strength is None:
        softness = default_softness(method, x.shape[dim] if x.dim() else 1)

    def define(x: Tensor) -> Tensor:
        with full_precision(x):
            rows = as_rows(as_float(x), dim)
            flags = None if valid is None else as_rows(valid, dim)
            if strength is not None:
                rank = permutahedron_rank(rows, strength, flags)
            else:
                assert softness is not None
                rank = _METHODS[method](standardize(rows, mask=flags), softness, flags)
            return from_rows(rank, dim, x)

    if is_traced() or not native.usable(x, mask=mask):
        return define(x)
    if strength is not None:
        return compiled_soft_rank(x, dim, RankOptions(method, strength, raw=True), valid, define)
    assert softness is not None
    return compiled_soft_rank(x, dim, RankOptions(method, softness, number_of_knots(softness)), valid, define)


def bounded_softness(softness: float) -> float:
    """Return the softness, or the nearest one whose reciprocal and products do not overflow."""
    return min(max(softness, 1e-30), 1e30)


def default_softness(method: RankMethod, num_classes: int) -> float:
    """Softness that `soft_rank` takes for rows of `num_classes` values: about three of their gaps.

    It is 3 / C standard deviations within bounds, chosen by the experiment in docs/ranking.md: of the
    softnesses that teach the order as fast as any, about the one with the least bias.

    Args:
        method: `"binned"`, `"laplace"` or `"l2"`.
        num_classes: Length C of a row.

    Returns:
        Standard deviations of a row for `"binned"`, between 1/32 and 0.25, and for `"laplace"`, between 0.02
        and 0.3; for `"l2"` the factor k, 3 from 10 classes on.

    Raises:
        InputError: Unknown method.

    Example:
        >>> default_softness("binned", 100), default_softness("binned", 10), default_softness("l2", 100)
        (0.03125, 0.25, 3.0)
    """
    if method == "l2":
        # Never a strength above 0.3 standard deviations: with three classes k = 3 pools nearly every row.
        return min(3.0, 0.3 * num_classes)
    if method not in _DEFAULT_RANGE:
        raise unknown_name("rank method", str(method), get_args(RankMethod))
    least, largest = _DEFAULT_RANGE[method]
    return min(largest, max(least, 3 / max(num_classes, 1)))


_METHODS: dict[str, Callable[[Tensor, float, Tensor | None], Tensor]] = {
    "laplace": laplace_rank,
    "binned": binned_rank,
    "l2": standardized_permutahedron_rank,
}


def check_rank_options(method: str, softness: float | None, strength: float | None = None) -> None:
    """Raise `InputError` unless `soft_rank` takes these options."""
    if method not in _METHODS:
        raise unknown_name("rank method", str(method), _METHODS)
    for name, value in (("softness", softness), ("strength", strength)):
        is_number = isinstance(value, (int, float)) or hasattr(value, "__float__")
        if value is not None and not (is_number and 0 < value < math.inf):
            raise InputError(f"{name} is {value!r}: it has to be a positive number.")
    if strength is not None and method != "l2":
        raise InputError(f"strength belongs to method 'l2', not {method!r}: give softness instead.")
    if strength is not None and softness is not None:
        raise InputError(
            f"softness {softness} and strength {strength} are two ways to say one thing: give one of them."
        )

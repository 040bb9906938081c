"""Filters and resampling of square images, as matrices that act on their rows and columns."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def along_both(matrix: Tensor, images: Tensor) -> Tensor:
    """Apply a matrix `(M, N)` to rows and columns of images `(*, N, N)`."""
    matrix = matrix.to(images)
    return matrix @ images @ matrix.T


def gaussian_matrix(size: int, sigma: float, *, truncate: float, reflect: bool) -> Tensor:
    """Return a Gaussian filter of `size` values as a matrix, float64 `(size, size)`.

    Args:
        size: Number of values.
        sigma: Standard deviation in pixels; 0 leaves everything as it is.
        truncate: Standard deviations after which the filter is cut off.
        reflect: Beyond an edge the values are mirrored at it; else that at the edge is repeated.
    """
    reach = int(truncate * sigma + 0.5)
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (offsets.double() / max(sigma, 1e-9)) ** 2)
    places = torch.arange(size)[:, None] + offsets
    if reflect:
        places = places.remainder(2 * size)
        places = torch.where(places < size, places, 2 * size - 1 - places)
    else:
        places = places.clamp(0, size - 1)
    values = (weights / weights.sum()).expand(size, -1)
    return torch.zeros(size, size, dtype=torch.float64).scatter_add_(1, places, values)


def zoom_matrix(size: int, factor: float) -> Tensor:
    """Return the enlargement of the middle of `size` values to `size`, linear, float64 `(size, size)`."""
    kept = math.ceil(size / factor)
    enlarged = round(kept * factor)
    step = (kept - 1) / (enlarged - 1) if enlarged > 1 else 0.0
    places = (torch.arange(size).double() + (enlarged - size) // 2) * step
    places = places.clamp(0, kept - 1) + (size - kept) // 2
    low = places.floor().long().clamp(max=size - 1)
    high = (low + 1).clamp(max=size - 1)
    part = (places - low)[:, None]
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.scatter_add_(1, low[:, None], 1 - part).scatter_add_(1, high[:, None], part)


def box_matrix(size: int, wanted: int) -> Tensor:
    """Return Pillow's box filter from `size` to `wanted` values, float64 `(wanted, size)`."""
    scale = size / wanted
    support = max(scale, 1.0) / 2
    matrix = torch.zeros(wanted, size, dtype=torch.float64)
    for row in range(wanted):
        centre = (row + 0.5) * scale
        begin, end = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), size)
        matrix[row, begin:end] = 1 / (end - begin)
    return matrix

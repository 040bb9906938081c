"""Features of two networks in shapes that can be compared."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cmkd.errors import InputError

# Below this the gradient of a direction would leave float32.
_SMALLEST = 1e-30


def as_map(x: Tensor) -> Tensor:
    """Bring features to maps `(N, C, H, W)`.

    Args:
        x: Maps, as they are; vectors `(N, D)`, which become maps of one position; or tokens `(N, T, D)`,
            which are laid out as a square if T is a square number, or one more than one (the class token,
            which comes first, is left out), and otherwise as one column.

    Returns:
        The maps.

    Raises:
        InputError: The features have another number of dimensions.

    Example:
        >>> import torch
        >>> as_map(torch.zeros(2, 197, 192)).shape
        torch.Size([2, 192, 14, 14])
    """
    if x.ndim == 4:
        return x
    if x.ndim == 2:
        return x[:, :, None, None]
    if x.ndim != 3:
        raise InputError(
            f"features have shape {tuple(x.shape)}: expected maps (N, C, H, W), tokens (N, T, D) or vectors "
            "(N, D); name another layer."
        )
    side = math.isqrt(x.shape[1])
    if side > 1 and side**2 + 1 == x.shape[1]:
        x = x[:, 1:]
    height = side if side**2 == x.shape[1] else x.shape[1]
    return x.transpose(1, 2).unflatten(2, (height, -1))


def pool_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Average maps `(N, C, H, W)` down to `(N, C, *size)`."""
    height, width = x.shape[-2:]
    if (height, width) == size:
        return x
    if height % size[0] == 0 and width % size[1] == 0:
        # The same numbers, and on CUDA its backward pass is the same in every run.
        return F.avg_pool2d(x, (height // size[0], width // size[1]))
    return F.adaptive_avg_pool2d(x, size)


def to_common_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Bring two features to maps, and pool the larger ones down to the smaller in each direction."""
    student, teacher = as_map(student), as_map(teacher)
    height = min(student.shape[2], teacher.shape[2])
    width = min(student.shape[3], teacher.shape[3])
    return pool_to(student, (height, width)), pool_to(teacher, (height, width))


def unit(x: Tensor, dim: int = -1) -> Tensor:
    """Return `x / |x|` along a dimension, and 0 with zero gradient where `x` is zero (below 1e-30).

    Example:
        >>> import torch
        >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    # Squares would overflow. A direction does not depend on this scale, nor does its gradient.
    largest = x.detach().abs().amax(dim, keepdim=True)
    some = largest > _SMALLEST
    scaled = x / torch.where(some, largest, 1.0)
    length = torch.where(some, scaled.square().sum(dim, keepdim=True), 1.0).sqrt()
    return torch.where(some, scaled / length, 0.0)


def without_scale(x: Tensor) -> Tensor:
    """Divide by the largest magnitude in the tensor, for what does not depend on it; zeros stay zeros."""
    largest = x.detach().abs().amax()
    return x / torch.where(largest > _SMALLEST, largest, 1.0)

"""The decisions of a network on the plane through three images (Somepalli et al. 2022, arXiv 2203.08124)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from cmkd.errors import InputError

#: How far the picture reaches beyond the images, as a share of what they span.
MARGIN = 0.2


class Plane(NamedTuple):
    """Points of a plane of images.

    Attributes:
        points: `(side * side, channels, H, W)`, row by row, the first row being the lowest.
        corners: Coordinates of the three images, `(3, 2)`, in the length unit of the pixels given.
        x: Coordinates of the columns, `(side,)`.
        y: Coordinates of the rows, `(side,)`.
    """

    points: Tensor
    corners: Tensor
    x: Tensor
    y: Tensor


def plane_through(images: Tensor, side: int) -> Plane:
    """Lay a grid over the plane through three images.

    The first image is the origin, the second lies on the first axis, the third above it.

    Args:
        images: `(3, channels, H, W)`, of any unit.
        side: Points along either axis.

    Returns:
        The grid; it covers the triangle with a margin on every side.

    Raises:
        InputError: The images lie on a line, as two equal ones do.

    Example:
        >>> images = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]]).view(3, 1, 1, 2)
        >>> plane_through(images, 3).corners
        tensor([[0., 0.],
                [3., 0.],
                [3., 4.]])
    """
    flat = images.flatten(1).double()
    first, second = flat[1] - flat[0], flat[2] - flat[0]
    length = first.norm()
    right = first / length
    along = second @ right
    rest = second - along * right
    height = rest.norm()
    if not (length > 0 and height > 1e-6 * length):
        raise InputError("the three images lie on a line, so that there is no plane through them.")
    up = rest / height
    corners = torch.stack(
        [length.new_zeros(2), torch.stack([length, length * 0]), torch.stack([along, height])]
    )
    low, high = corners.min(0).values, corners.max(0).values
    spare = MARGIN * (high - low)
    x, y = (
        torch.linspace(float(start), float(end), side, dtype=torch.float64, device=images.device)
        for start, end in zip(low - spare, high + spare, strict=True)
    )
    points = flat[0] + x[None, :, None] * right + y[:, None, None] * up
    shaped = points.flatten(0, 1).view(-1, *images.shape[1:]).to(images.dtype)
    return Plane(shaped, corners.float(), x.float(), y.float())


@torch.inference_mode()
def decisions(network: Callable[[Tensor], Tensor], points: Tensor, batch: int = 256) -> Tensor:
    """Return the class that a network gives to every image, `(N,)` int64."""
    return torch.cat([network(part).argmax(1) for part in points.split(batch)])


def choose_three(teacher_logits: Tensor, targets: Tensor) -> list[int] | None:
    """Choose three images whose classes the teacher tells apart, but finds alike.

    The first is the image of median margin (highest less second highest probability) among those that the
    teacher gets right; the other two are of the classes that it holds next likely there for which it gets
    an image right: of either class the one that it is surest of.

    Args:
        teacher_logits: `(N, C)`.
        targets: Class indices `(N,)`.

    Returns:
        Three positions; None if it gets no three classes right.
    """
    p = teacher_logits.double().softmax(1)
    top = p.topk(2).values
    right = (teacher_logits.argmax(1) == targets).nonzero().flatten()
    if len(targets[right].unique()) < 3:
        return None
    margins = (top[:, 0] - top[:, 1])[right]
    first = int(right[margins.argsort(stable=True)[(len(right) - 1) // 2]])
    chosen = [first]
    for label in teacher_logits[first].argsort(descending=True, stable=True)[1:].tolist():
        of_class = right[targets[right] == label]
        if len(of_class) and len(chosen) < 3:
            chosen.append(int(of_class[p[of_class, label].argmax()]))
    return chosen


def boundary_share(classes: Tensor) -> float:
    """Return the share of neighbouring points `(side, side)` that are given different classes.

    Example:
        >>> boundary_share(torch.tensor([[0, 1], [0, 1]]))
        0.5
    """
    across, down = classes[:, 1:] != classes[:, :-1], classes[1:] != classes[:-1]
    return (int(across.sum()) + int(down.sum())) / (across.numel() + down.numel())

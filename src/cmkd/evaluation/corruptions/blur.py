"""Blur of lens, glass and movement."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cmkd.evaluation.corruptions.draws import Draws
from cmkd.evaluation.corruptions.sampling import along_both, gaussian_matrix, zoom_matrix


def defocus_blur(images: Tensor, draws: Draws, parameters: tuple[float, float]) -> Tensor:
    """Average over a disk of a radius in pixels, whose edge is softened by a standard deviation."""
    kernel = disk(*parameters).to(images)
    reach = kernel.shape[0] // 2
    single = images.flatten(0, 1)[:, None]
    padded = F.pad(single, (reach,) * 4, mode="reflect")
    return F.conv2d(padded, kernel[None, None]).view_as(images)


def disk(radius: float, softness: float) -> Tensor:
    """Return a disk as a filter of odd size: all weights that are not 0, with the sum 1."""
    reach, around = math.floor(radius), 1 if radius <= 8 else 2
    axis = torch.arange(-reach - around, reach + around + 1).double()
    inside = (axis[:, None] ** 2 + axis**2 <= radius**2).double()
    edge = torch.arange(-around, around + 1).double()
    smooth = torch.exp(-0.5 * (edge / softness) ** 2)
    smooth = smooth / smooth.sum()
    kernel = F.conv2d(inside[None, None], (smooth[:, None] * smooth)[None, None], padding=around)[0, 0]
    return kernel / kernel.sum()


def glass_blur(images: Tensor, draws: Draws, parameters: tuple[float, int, int]) -> Tensor:
    """Blur, let every pixel take over a neighbour's value, and blur again.

    The published program means to swap the two, but both of its numpy views show the same memory, so that
    one is copied over the other; and so it is done here, for all pixels at once. Where the neighbour may be
    one that has been overwritten before (of ImageNet-C all but severity 1), this differs by that.

    Args:
        images: `(B, channels, H, H)` in [0, 1].
        draws: Random numbers.
        parameters: Standard deviation of the blur, farthest neighbour, and how often; in pixels.
    """
    sigma, farthest, times = parameters
    size = images.shape[-1]
    blur = gaussian_matrix(size, sigma, truncate=4, reflect=False)
    images = (along_both(blur, images) * 255).floor() / 255
    place = torch.arange(size, device=images.device)
    # The pixels nearest to the upper and left edge have no such neighbour and stay.
    moves = (place > farthest) & (place <= size - farthest)
    moves = moves[:, None] & moves
    for turn in range(times):
        shifts = (draws.uniform(turn, 2, size, size) * 2 * farthest).long() - farthest
        shifts = torch.where(moves, shifts, 0)
        rows = (place[:, None] + shifts[:, 0]).clamp(0, size - 1)
        columns = (place + shifts[:, 1]).clamp(0, size - 1)
        images = _take(images, rows * size + columns)
    return along_both(blur, images)


def motion_blur(images: Tensor, draws: Draws, parameters: tuple[int, float]) -> Tensor:
    """Smear along a line within 45 degrees of the horizontal; see `smear`."""
    angle = (draws.uniform(0) - 0.5) * (math.pi / 2)
    return smear(images, angle, *parameters)


def smear(images: Tensor, angle: Tensor, radius: int, sigma: float) -> Tensor:
    """Average along a line to one side, with the weights of a half Gaussian, as ImageMagick does.

    Args:
        images: `(B, channels, H, H)`.
        angle: Of every image's line, `(B,)`, in radians.
        radius: Half the length of the line in pixels.
        sigma: Standard deviation in pixels.
    """
    size = images.shape[-1]
    steps = range(min(2 * radius + 1, math.ceil(4.5 * sigma) + 1))  # beyond it is less than 1 part in 10,000
    weights = [math.exp(-0.5 * (step / sigma) ** 2) for step in steps]
    place = torch.arange(size, device=images.device)
    blurred = torch.zeros_like(images)
    for step, weight in zip(steps, weights, strict=True):
        down, right = ((step * f(angle) - 0.5).ceil().long()[:, None] for f in (torch.sin, torch.cos))
        rows, columns = (place + down).clamp(0, size - 1), (place + right).clamp(0, size - 1)
        blurred += weight / sum(weights) * _take(images, rows[:, :, None] * size + columns[:, None, :])
    return blurred


def zoom_blur(images: Tensor, draws: Draws, parameters: tuple[int, float]) -> Tensor:
    """Average the image and enlargements of its middle: how many, and the step between their factors."""
    count, step = parameters
    total = images.clone()
    for each in range(count):
        total += along_both(zoom_matrix(images.shape[-1], 1 + each * step), images)
    return total / (count + 1)


def _take(images: Tensor, places: Tensor) -> Tensor:
    """Return pixels by their place in a row-wise image, `(B, H, W)` for images `(B, channels, H, W)`."""
    flat = images.flatten(2)
    return flat.gather(2, places.flatten(1)[:, None].expand_as(flat)).view_as(images)

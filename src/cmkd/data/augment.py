"""Augmentation as a pure function of (seed, index, view), a few tensor operations for a whole batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cmkd.data.random import Stream, uniform
from cmkd.errors import unknown_name

AUGMENTATIONS = ("none", "flip", "crop_flip", "resized_crop_flip")
"""Names of the augmentations.

- `none`: the image as it is;
- `flip`: mirrored left to right, every second time;
- `crop_flip`: shifted by up to an eighth of its side in either direction (4 pixels at 32, as in the CIFAR
  recipes), with black where nothing was, and `flip`;
- `resized_crop_flip`: a random part, 8 to 100 % of the area with an aspect ratio between 3/4 and 4/3, scaled
  to the full size (Szegedy et al. 2015, the ImageNet recipe), and `flip`.
"""

#: To be raised with every change that changes pixels: stored logits of a teacher (`cmkd cache`) go with them.
VERSION = 1

_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)


def require_known(name: str) -> None:
    """Raise `InputError` unless `name` is an augmentation."""
    if name not in AUGMENTATIONS:
        raise unknown_name("augmentation", name, AUGMENTATIONS)


def augment(images: Tensor, indices: Tensor, *, name: str, seed: int, view: int) -> Tensor:
    """Shift and mirror a batch.

    The resized crop is not done here: it must see the image before it is scaled, so it belongs to reading
    (`crop_draws`, `resized_crop`). Of `resized_crop_flip` this is the mirroring.

    Args:
        images: Any dtype, `(B, channels, H, W)`.
        indices: Index of every image in its data set, `(B,)` int64, on the images' device.
        name: One of `AUGMENTATIONS`.
        seed: Any integer.
        view: Which version of the images, for example the epoch.

    Returns:
        A tensor like `images`; for `none`, `images` itself.
    """
    if name == "none":
        return images
    batch, channels, height, width = images.shape
    rows = torch.arange(height, device=images.device).expand(batch, height)
    columns = torch.arange(width, device=images.device).expand(batch, width)
    streams = (Stream.FLIP, Stream.TOP, Stream.LEFT)[: 3 if name == "crop_flip" else 1]
    draws = uniform(indices, seed=seed, view=view, streams=streams)[:, :, None]
    columns = torch.where(draws[0] < 0.5, columns.flip(1), columns)
    if name == "crop_flip":
        pad = height // 8
        images = torch.nn.functional.pad(images, (pad, pad, pad, pad))
        top, left = (draws[1:] * (2 * pad + 1)).long()
        rows, columns = rows + top, columns + left
    # One gather does shift and mirror together.
    pixels = (rows[:, :, None] * images.shape[-1] + columns[:, None, :]).view(batch, 1, height * width)
    gathered = images.flatten(2).gather(2, pixels.expand(batch, channels, -1))
    return gathered.view(batch, channels, height, width)


def crop_draws(indices: Tensor, *, seed: int, view: int) -> Tensor:
    """Return the random numbers of a resized crop for each index.

    Args:
        indices: `(B,)` int64.
        seed: Any integer.
        view: Which version of the images.

    Returns:
        float32 `(B, 4)` in [0, 1): area, aspect ratio, vertical and horizontal position.
    """
    streams = (Stream.AREA, Stream.ASPECT, Stream.TOP, Stream.LEFT)
    return uniform(indices, seed=seed, view=view, streams=streams).T


def crop_box(draws: Tensor, height: int, width: int) -> tuple[int, int, int, int]:
    """Turn four uniform numbers into the box of a random resized crop.

    Area and logarithm of the aspect ratio are uniform, as in torchvision's RandomResizedCrop; a box that does
    not fit is cut to the image, where torchvision would draw again.

    Args:
        draws: `(4,)`, a row of `crop_draws`.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        Top, left, height and width in pixels, inside the image.
    """
    area_draw, aspect_draw, top_draw, left_draw = draws.tolist()
    area = height * width * (_AREA[0] + area_draw * (_AREA[1] - _AREA[0]))
    aspect = _ASPECT[0] * (_ASPECT[1] / _ASPECT[0]) ** aspect_draw
    box_height = min(max(round(math.sqrt(area / aspect)), 1), height)
    box_width = min(max(round(math.sqrt(area * aspect)), 1), width)
    top = int(top_draw * (height - box_height + 1))
    left = int(left_draw * (width - box_width + 1))
    return top, left, box_height, box_width


def resized_crop(image: Tensor, draws: Tensor, *, size: int) -> Tensor:
    """Cut a random box out of an image and scale it.

    Args:
        image: uint8 `(channels, H, W)`.
        draws: `(4,)`, a row of `crop_draws`.
        size: Side of the result in pixels.

    Returns:
        uint8 `(channels, size, size)`.
    """
    from torchvision.transforms.v2 import functional as transforms

    top, left, height, width = crop_box(draws, *image.shape[-2:])
    return transforms.resized_crop(image, top, left, height, width, [size, size], antialias=True)

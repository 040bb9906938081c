"""From pixels to what a network sees: the way that is common to training and to pictures from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from cmkd.data.decoding import decode, read_pixels

Framing = Literal["whole", "centre"]
"""What a network sees of a picture: all of it, squeezed into a square, or a square in its middle."""

#: Weights of red, green and blue (ITU-R BT.601) in 1 / 2^16, as Pillow has them: grey stays as it is.
_LUMA, _LUMA_BITS = (19595, 38470, 7471), 16


def scale_and_shift(
    mean: Sequence[float], std: Sequence[float], device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Return a and b, `(1, 3, 1, 1)`, with which `(pixel / 255 - mean) / std` is `pixel * a + b`.

    Args:
        mean: Mean of each of 3 channels, for pixels in [0, 1].
        std: Standard deviation likewise.
        device: Where they are wanted.
    """
    channels = torch.tensor([list(mean), list(std)], device=device).view(2, 1, -1, 1, 1)
    return 1 / (255 * channels[1]), -channels[0] / channels[1]


def as_levels(pixels: Tensor, size: int | None) -> Tensor:
    """Bring pixels to three channels and to one size, before they are normalised.

    Args:
        pixels: uint8 `(B, 1 or 3, H, W)`; one channel is repeated.
        size: Side of the result in pixels; None leaves it.

    Returns:
        float32 `(B, 3, size, size)`, from 0 to 255, in memory of its own.
    """
    levels = pixels.expand(-1, 3, -1, -1).to(torch.float32)
    if size is not None and levels.shape[-2:] != (size, size):
        levels = torch.nn.functional.interpolate(levels, (size, size), mode="bilinear", antialias=True)
    return levels


def picture_levels(content: bytes, *, size: int, framing: Framing, channels: int) -> Tensor:
    """Decode a picture to what a loader makes of it without augmentation.

    Args:
        content: Bytes of an image file of any kind.
        size: Side of the images that the network gets, in pixels.
        framing: What of the picture it gets: see `ImageData.framing`.
        channels: 1 if the network has learnt from grey images; then colours are dropped.

    Returns:
        float32 `(3, size, size)`, from 0 to 255.

    Raises:
        DamagedImage: The bytes are truncated or no image.
    """
    pixels = decode(content) if framing == "whole" else read_pixels(content, size)
    if channels == 1:
        luma = sum(weight * channel.int() for weight, channel in zip(_LUMA, pixels, strict=True))
        assert isinstance(luma, Tensor)
        pixels = ((luma + (1 << _LUMA_BITS - 1)) >> _LUMA_BITS).to(torch.uint8)[None]
    return as_levels(pixels[None], size)[0]

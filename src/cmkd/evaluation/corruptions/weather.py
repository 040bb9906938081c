"""Snow, frost, fog and bright light."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cmkd.evaluation.corruptions.blur import smear
from cmkd.evaluation.corruptions.draws import Draws
from cmkd.evaluation.corruptions.sampling import along_both, zoom_matrix

_LUMA = (0.299, 0.587, 0.114)
_ICE = (0.86, 0.94, 1.0)


def snow(
    images: Tensor, draws: Draws, parameters: tuple[float, float, float, float, int, float, float]
) -> Tensor:
    """Let bright flakes fall, smeared by their movement, and whiten the image.

    Args:
        images: `(B, channels, H, H)` in [0, 1].
        draws: Random numbers.
        parameters: Mean and standard deviation of the noise that flakes are made from, how much it is
            enlarged, the level above which it is a flake, radius and standard deviation of the smear in
            pixels, and what is kept of the image.
    """
    mean, deviation, factor, level, radius, sigma, kept = parameters
    size = images.shape[-1]
    flakes = mean + deviation * draws.normal(0, 1, size, size)
    flakes = along_both(zoom_matrix(size, factor), flakes)
    flakes = torch.where(flakes < level, 0, flakes).clamp(0, 1)
    angle = (draws.uniform(1) * 0.5 - 0.75) * math.pi
    flakes = smear(flakes, angle, radius, sigma)
    white = torch.maximum(images, _grey(images) * 1.5 + 0.5)
    return kept * images + (1 - kept) * white + flakes + flakes.flip(2, 3)


def frost(images: Tensor, draws: Draws, parameters: tuple[float, float]) -> Tensor:
    """Lay ice over the image: what is kept of that, and how much ice.

    The published sets have photographs of frost; here it is a fractal with bright ridges, tinted blue (grey
    on grey images). The numbers under this corruption are therefore not those of the published sets.
    """
    kept, ice = parameters
    size = images.shape[-1]
    coarse, fine = plasma(draws, 0, size, decay=2.0), plasma(draws, 1, size, decay=1.4)
    ridges = 1 - (2 * coarse - 1).abs()
    texture = (0.2 + 0.6 * ridges.square() + 0.3 * fine)[:, None]
    if images.shape[1] == 3:
        texture = texture * texture.new_tensor(_ICE).view(1, 3, 1, 1)
    return kept * images + ice * texture


def fog(images: Tensor, draws: Draws, parameters: tuple[float, float]) -> Tensor:
    """Add a fractal of some height and roughness, and darken so that the brightest stays as bright."""
    height, decay = parameters
    brightest = images.amax((1, 2, 3), keepdim=True)
    # An image that is black stays so, fog and all, as published.
    hazy = images + height * plasma(draws, 0, images.shape[-1], decay=decay)[:, None]
    return hazy * brightest / (brightest + height)


def brightness(images: Tensor, draws: Draws, added: float) -> Tensor:
    """Add to the value of hue, saturation and value; those two stay."""
    value = images.amax(1, keepdim=True)
    raised = (value + added).clamp(max=1)
    # With hue and saturation fixed the channels are proportional to the value; black becomes grey.
    return torch.where(value > 0, images * raised / value.clamp(min=1e-6), raised)


def plasma(draws: Draws, number: int, size: int, *, decay: float) -> Tensor:
    """Return a fractal landscape by the diamond-square algorithm on a torus.

    Args:
        draws: Random numbers.
        number: Which draw of the corruption.
        size: Side of the result in pixels.
        decay: Factor by which the height of the bumps falls with every halving of their width; its square
            is what the random part falls by, as published.

    Returns:
        Heights from 0 to 1, `(B, size, size)`.
    """
    side = 1 << (size - 1).bit_length()
    bumps = 2 * draws.uniform(number, side, side) - 1
    heights = torch.zeros_like(bumps)
    step, height = side, 1.0
    while step >= 2:
        half = step // 2
        even, odd = slice(0, side, step), slice(half, side, step)
        corners = heights[:, even, even]
        pairs = corners + corners.roll(-1, 1)
        middles = (pairs + pairs.roll(-1, 2)) / 4 + height * bumps[:, odd, odd]
        heights[:, odd, odd] = middles
        level = middles + middles.roll(1, 1) + corners + corners.roll(-1, 2)
        heights[:, even, odd] = level / 4 + height * bumps[:, even, odd]
        upright = middles + middles.roll(1, 2) + corners + corners.roll(-1, 1)
        heights[:, odd, even] = upright / 4 + height * bumps[:, odd, even]
        step, height = half, height / decay**2
    heights -= heights.amin((1, 2), keepdim=True)
    return (heights / heights.amax((1, 2), keepdim=True))[:, :size, :size]


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images
    return (images * images.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)

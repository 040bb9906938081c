"""Noise of single pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from cmkd.evaluation.corruptions.draws import Draws


def gaussian_noise(images: Tensor, draws: Draws, deviation: float) -> Tensor:
    """Add normal noise of a standard deviation."""
    return images + deviation * draws.normal(0, *images.shape[1:])


def shot_noise(images: Tensor, draws: Draws, photons: float) -> Tensor:
    """Count photons: a white pixel has so many on average, and their number is Poisson's.

    Pixels have 256 levels, so that there are 256 distributions: their cumulative sums are laid end to end,
    and one search finds every count.
    """
    levels = (images * 255).round().long()
    counts = torch.arange(int(photons + 12 * photons**0.5) + 24, dtype=torch.float64)
    mean = torch.arange(256, dtype=torch.float64)[:, None] / 255 * photons
    chances = (torch.xlogy(counts, mean) - mean - torch.lgamma(counts + 1)).exp()
    below = chances.cumsum(1).clamp(max=1)
    below[:, -1] = 1  # what rounding has left out
    below = (below + torch.arange(256)[:, None]).flatten().to(images.device)
    found = torch.searchsorted(below, draws.uniform(0, *images.shape[1:]) + levels.double(), right=True)
    return (found - levels * len(counts)).float() / photons


def impulse_noise(images: Tensor, draws: Draws, amount: float) -> Tensor:
    """Set a share of the values to black or white, with even chances."""
    drawn = draws.uniform(0, *images.shape[1:])
    return torch.where(drawn < amount, (drawn < amount / 2).float(), images)

"""Random numbers of a corruption: a pure function of seed, image, corruption and severity."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cmkd.data.random import Stream, uniform

#: How many times a corruption may draw.
_DRAWS = 8


@dataclass(frozen=True)
class Draws:
    """Where the random numbers of a batch come from.

    Attributes:
        indices: Index of every image in its data set, `(B,)` int64.
        seed: Any integer.
        kind: Number of the corruption and severity.
    """

    indices: Tensor
    seed: int
    kind: int

    def uniform(self, number: int, *shape: int) -> Tensor:
        """Return numbers in [0, 1) for every image, float32 `(B, *shape)`.

        Args:
            number: Which draw of the corruption, from 0; another one has other numbers.
            shape: Of the numbers of one image.
        """
        count = math.prod(shape)
        places = self.indices[:, None] * count + torch.arange(count, device=self.indices.device)
        view = self.kind * _DRAWS + number
        drawn = uniform(places, seed=self.seed, view=view, streams=(Stream.CORRUPTION,))[0]
        return drawn.view(-1, *shape)

    def normal(self, number: int, *shape: int) -> Tensor:
        """Return standard normal numbers for every image, float32 `(B, *shape)`; see `uniform`."""
        # The middle of each of the 2^24 steps: neither end is reached, and the sum is exact.
        return torch.erfinv(2 * self.uniform(number, *shape) - 1 + 2.0**-24) * math.sqrt(2)

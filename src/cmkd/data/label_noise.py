"""Wrong labels on purpose, to see what a method makes of them."""

from __future__ import annotations

import torch
from torch import Tensor

from cmkd.data.random import Stream, uniform
from cmkd.errors import InputError


def with_label_noise(targets: Tensor, num_classes: int, share: float, seed: int) -> Tensor:
    """Replace labels by others: symmetric label noise (van Rooyen et al. 2015, arXiv 1505.07634).

    Every label is wrong with the same probability, and a wrong one is each of the other classes with the
    same probability. A pure function of seed and index, so that all processes and a resumed run agree.

    Args:
        targets: Class of every image, `(N,)` int64.
        num_classes: Number of classes C.
        share: Probability that a label is replaced, from 0 to below 1.
        seed: Any integer that is not negative.

    Returns:
        int64 `(N,)`, on the device of `targets`.

    Raises:
        InputError: The share is outside its range.

    Example:
        >>> with_label_noise(torch.tensor([0, 0, 0, 1, 1, 1, 2, 2]), 3, 0.5, seed=0)
        tensor([0, 2, 2, 2, 2, 0, 1, 2])
    """
    if not 0 <= share < 1:
        raise InputError(f"the share of wrong labels is {share}; give a number from 0 to below 1.")
    indices = torch.arange(len(targets), device=targets.device)
    wrong, other = uniform(indices, seed=seed, view=0, streams=(Stream.LABEL, Stream.OTHER_LABEL))
    # 1 to C - 1 classes further on: never the label itself
    shift = 1 + (other * (num_classes - 1)).long()
    return torch.where(wrong < share, (targets + shift) % num_classes, targets)

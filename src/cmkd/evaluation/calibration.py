"""Whether a network's probabilities are what they say, before and after temperature scaling."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BINS = 15

#: Temperatures outside are not looked at: a network that errs nowhere would go to 0 for ever.
TEMPERATURES = (0.05, 20.0)


def calibration(
    logits: Tensor, targets: Tensor, *, temperature: float = 1.0, bins: int = BINS
) -> dict[str, Any]:
    """Measure the probabilities of a classifier, in float64.

    Args:
        logits: Logits `(N, C)`.
        targets: Class indices `(N,)`.
        temperature: What the logits are divided by.
        bins: Number of equal bins of the confidence.

    Returns:
        `nll`, the mean negative log-likelihood in nats; `brier`, the mean over the images of the squared
        distance between the distribution and the label, summed over the classes (Brier 1950; 0 to 2); `ece`,
        the expected calibration error (Guo et al. 2017, equation 5); `mce`, the largest gap of a bin;
        `reliability`: of every bin `count`, and mean `confidence` and `accuracy`, None where it is empty.
    """
    total = len(targets)
    log_p = F.log_softmax(logits.double() / temperature, 1)
    p = log_p.exp()
    confidence, predicted = p.max(1)
    right = (predicted == targets).double()
    sums = bin_sums(confidence, torch.ones_like(right), confidence, right, bins=bins)
    count, confident, correct = (each.tolist() for each in sums)
    gaps = [abs(c - r) for c, r in zip(confident, correct, strict=True)]
    # |p - y|² = |p|² - 2 p_y + 1: no one-hot labels
    distance = p.square().sum(1) - 2 * p.gather(1, targets[:, None]).squeeze(1) + 1
    return {
        "nll": -log_p.gather(1, targets[:, None]).mean().item(),
        "brier": distance.mean().item(),
        "ece": sum(gaps) / total,
        "mce": max(gap / n for gap, n in zip(gaps, count, strict=True) if n),
        "reliability": {
            "count": [int(n) for n in count],
            "confidence": [c / n if n else None for c, n in zip(confident, count, strict=True)],
            "accuracy": [r / n if n else None for r, n in zip(correct, count, strict=True)],
        },
    }


def bin_sums(confidence: Tensor, *values: Tensor, bins: int) -> list[Tensor]:
    """Sum values over the samples of each bin of the confidence.

    Args:
        confidence: Probability of the answer, from 0 to 1, `(N,)`.
        *values: What is summed, `(N,)` each.
        bins: Number of equal bins.

    Returns:
        The sums, `(bins,)` each.

    Example:
        >>> bin_sums(torch.tensor([0.2, 0.9, 0.7]), torch.tensor([1.0, 2.0, 4.0]), bins=2)
        [tensor([1., 6.])]
    """
    edges = torch.linspace(0, 1, bins + 1, dtype=confidence.dtype, device=confidence.device)
    bin_of = torch.bucketize(confidence, edges[1:-1])
    return [confidence.new_zeros(bins).index_add_(0, bin_of, each) for each in values]


def fit_temperature(logits: Tensor, targets: Tensor) -> tuple[float, bool]:
    """Find the temperature of the smallest negative log-likelihood (Guo et al. 2017, section 4.2).

    Args:
        logits: Logits `(N, C)` of images that nothing is measured on.
        targets: Their classes `(N,)`.

    Returns:
        The temperature, and whether it is one of the ends of `TEMPERATURES`: then the best lies beyond.
    """
    from scipy.optimize import minimize_scalar  # slow to import

    logits = logits.double()

    def loss(log_temperature: float) -> float:
        return F.cross_entropy(logits / math.exp(log_temperature), targets).item()

    # Convex in 1 / T, hence with a single minimum in log T as well.
    low, high = (math.log(end) for end in TEMPERATURES)
    found = float(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x)
    ends = [end for end in (low, high) if abs(found - end) < 1e-3]
    return math.exp(ends[0] if ends else found), bool(ends)

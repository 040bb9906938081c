"""Means over seeds, and what can be said of a difference between two methods that share their seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Sample:
    """A number that was measured once per seed.

    Args:
        values: Seed -> number.
    """

    values: Mapping[int, float]

    @property
    def mean(self) -> float | None:
        """Mean over the seeds; None without any."""
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over the seeds; None for fewer than two."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def half_width(self) -> float | None:
        """Half the width of the t confidence interval of the mean; None for fewer than two seeds."""
        return half_width(list(self.values.values()))


def paired_difference(ours: Sample, theirs: Sample) -> Sample:
    """Return `ours - theirs` for every seed that both have.

    Runs of one seed share initial weights, batches and augmentation, so that their difference varies less
    than either of them.
    """
    return Sample(
        {seed: ours.values[seed] - theirs.values[seed] for seed in ours.values if seed in theirs.values}
    )


def half_width(values: Sequence[float], confidence: float = CONFIDENCE) -> float | None:
    r"""Return half the width of the confidence interval of a mean, $t_{n-1} \, s / \sqrt{n}$.

    Args:
        values: Independent measurements, taken as normally distributed.
        confidence: How often such an interval holds the true mean.

    Returns:
        The half width, in the unit of the values; None for fewer than two of them.
    """
    if len(values) < 2:
        return None
    from scipy.stats import t

    quantile = float(t.ppf((1 + confidence) / 2, len(values) - 1))
    return quantile * statistics.stdev(values) / math.sqrt(len(values))

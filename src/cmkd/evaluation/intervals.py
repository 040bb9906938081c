"""Shares with their confidence intervals."""

from __future__ import annotations

import math
from typing import Any

#: The 97.5 % point of the normal distribution: 2.5 % are cut off on either side.
Z_95 = 1.959963984540054


def wilson(count: int, of: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share (Wilson 1927, without continuity correction).

    Unlike the textbook's p ± 1.96 s it stays within [0, 1] and keeps its promise near both ends.

    Args:
        count: Successes.
        of: Trials, at least 1.

    Example:
        >>> [round(bound, 4) for bound in wilson(9, 10)]
        [0.5958, 0.9821]
    """
    share, squared = count / of, Z_95**2
    centre = share + squared / (2 * of)
    reach = Z_95 * math.sqrt(share * (1 - share) / of + squared / (4 * of * of))
    low, high = (centre - reach) / (1 + squared / of), (centre + reach) / (1 + squared / of)
    # Rounding may leave 1e-17 where the formula gives the end itself.
    return (0.0 if count == 0 else low), (1.0 if count == of else high)


def share(count: int, of: int) -> dict[str, Any]:
    """Return `value`, the share; `low` and `high`, its 95 % interval; `count` and `of`."""
    low, high = wilson(count, of)
    return {"value": count / of, "low": low, "high": high, "count": count, "of": of}

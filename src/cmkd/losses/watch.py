"""Notices when the Spearman term has silently become a second Pearson term."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from cmkd.functional import default_softness, exact_rank, pearson
from cmkd.functional.rank import RankMethod

# The soft ranks count as degenerate when they bend away from a straight line in the logits by less than
# this fraction of what the exact ranks do.
LEAST_BEND = 0.05
# Rows looked at in one call: the mean over these is accurate enough, and dense predictions have millions.
MOST_ROWS = 1024


class SpearmanWatch:
    """Warns once if soft ranks are an affine function of the logits, or if there are only two classes.

    Looking costs a synchronisation with the device, so it looks at calls 1, 2, 4, 8, ... only.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.warned = False

    @torch.no_grad()
    def look(self, soft: Tensor, student: Tensor, method: RankMethod, softness: float | None) -> None:
        """Count a call of the loss, and look at its soft ranks if it is one of those.

        Args:
            soft: Soft ranks of the student's logits, (M, C).
            student: The logits, (M, C).
            method: How the soft ranks were made.
            softness: With which softness; None stands for the default.
        """
        self.calls += 1
        if self.warned or self.calls & (self.calls - 1):
            return
        classes = student.shape[1]
        if classes == 2:
            self._warn(
                "with two classes every correlation is +1 or -1 and has no gradient, so CMKD teaches nothing:"
                " use KDLoss."
            )
            return
        soft, student = soft[:MOST_ROWS], student[:MOST_ROWS]
        exact = exact_rank(student)
        varied = (student != student[:, :1]).any(1)
        count = varied.sum().clamp(min=1)
        soft_r = float((pearson(soft, student) * varied).sum() / count)
        exact_r = float((pearson(exact, student) * varied).sum() / count)
        # Logits that lie on a straight line themselves (exact_r = 1) prove nothing.
        if 1 - exact_r > 1e-3 and 1 - soft_r < LEAST_BEND * (1 - exact_r):
            used = default_softness(method, classes) if softness is None else softness
            self._warn(
                f"soft ranks correlate {soft_r:.5f} with the logits themselves, exact ranks only"
                f" {exact_r:.5f}: the Spearman term has become a second Pearson term; lower rank_softness"
                f" (now {used:g}; the default for {method!r} and {classes} classes is"
                f" {default_softness(method, classes):g})."
            )

    def _warn(self, message: str) -> None:
        self.warned = True
        warnings.warn(message, UserWarning, stacklevel=4)  # the line that called cmkd_loss


_shared: dict[tuple[RankMethod, float | None], SpearmanWatch] = {}


def shared_watch(method: RankMethod, softness: float | None) -> SpearmanWatch:
    """Return the one watch of this process for a configuration: what the function form of the loss uses."""
    return _shared.setdefault((method, softness), SpearmanWatch())

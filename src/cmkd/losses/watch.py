"""Notices when the Spearman term has silently become a second Pearson term."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor

from cmkd.functional import default_softness, exact_rank, pearson
from cmkd.functional.rank import RankMethod

# The soft ranks count as degenerate when they bend away from a straight line in the logits by less than
# this fraction of what the exact ranks do.
LEAST_BEND = 0.05
# Rows looked at in one call: the mean over these is accurate enough, and dense predictions have millions.
MOST_ROWS = 1024

# A warning points at the first line outside these folders: the user's, however the loss was called.
_INTERNAL = tuple(f"{folder}{os.sep}" for folder in (Path(__file__).parents[1], Path(torch.__file__).parent))


class SpearmanWatch:
    """Warns once if soft ranks are an affine function of the logits, or if there are only two classes.

    Looking costs a synchronisation with the device, so it looks at calls 1, 2, 4, 8, ... only, and never
    while a CUDA graph is captured, when a synchronisation is an error.
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
        if soft.is_cuda and torch.cuda.is_current_stream_capturing():
            return
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
            default = default_softness(method, classes)
            used = default if softness is None else softness
            if used > default:
                advice = (
                    f"lower rank_softness (now {used:g}; the default for {method!r} and {classes} classes is"
                    f" {default:g})."
                )
            else:
                advice = (
                    f"rank_softness ({used:g}) is no larger than the default, so a few outlying or masked"
                    " logits dominate the spread of their row: leave those columns out."
                )
            self._warn(
                f"soft ranks correlate {soft_r:.5f} with the logits themselves, exact ranks only"
                f" {exact_r:.5f}: the Spearman term has become a second Pearson term; {advice}"
            )

    def _warn(self, message: str) -> None:
        self.warned = True
        frame, level = sys._getframe(), 1
        while frame.f_back is not None and frame.f_code.co_filename.startswith(_INTERNAL):
            frame, level = frame.f_back, level + 1
        warnings.warn(message, UserWarning, stacklevel=level)


_shared: dict[tuple[RankMethod, int], SpearmanWatch] = {}


def shared_watch(method: RankMethod, classes: int) -> SpearmanWatch:
    """Return the one watch of this process for such input: what the function form of the loss uses.

    Not one per softness: that may change from call to call, and each would be looked at anew.
    """
    return _shared.setdefault((method, classes), SpearmanWatch())

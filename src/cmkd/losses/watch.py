"""Notices when the Spearman term has silently become a second Pearson term."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor

from cmkd.functional import default_softness, exact_rank, pearson, soft_rank
from cmkd.functional.logits import as_rows
from cmkd.functional.rank import RankMethod

# The soft ranks count as degenerate when they bend away from a straight line in the logits by less than
# this fraction of what the exact ranks do.
LEAST_BEND = 0.05
# Values looked at in one call, but never fewer rows: the mean over these is accurate enough, and dense
# predictions have millions of rows.
MOST_VALUES = 2**16
LEAST_ROWS = 4

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
    def look(
        self, student: Tensor, *, method: RankMethod, softness: float | None, mask: Tensor | None = None
    ) -> None:
        """Count a call of the loss, and look at its soft ranks if it is one of those.

        Args:
            student: Logits of the student, (N, C) or (N, C, *).
            method: How its soft ranks are made.
            softness: With which softness; None stands for the default.
            mask: Valid classes, bool, of a shape that broadcasts to that of the logits; or None.
        """
        if student.is_cuda and torch.cuda.is_current_stream_capturing():
            return
        self.calls += 1
        if self.warned or self.calls & (self.calls - 1):
            return
        classes = student.shape[1]
        if classes == 2:
            self._warn(
                "with two classes every correlation is +1 or -1 and has no gradient, so it teaches nothing:"
                " use KDLoss."
            )
            return
        rows = max(LEAST_ROWS, MOST_VALUES // classes)
        x = _first_rows(student, rows)
        valid = None if mask is None else _first_rows(mask.expand(student.shape), rows)
        soft = soft_rank(x, method=method, softness=softness, mask=valid)
        exact = exact_rank(x, mask=valid)
        # A constant row is on a straight line, too, but correlates 0; and so, elsewhere than on CPU, where it
        # is an error, does one with NaN or infinity.
        soft_each, exact_each = pearson(soft, x, mask=valid), pearson(exact, x, mask=valid)
        varied = soft_each.isfinite() & (exact_each != 0)
        count = varied.sum().clamp(min=1)
        soft_r = float(torch.where(varied, soft_each, 0.0).sum() / count)
        exact_r = float(torch.where(varied, exact_each, 0.0).sum() / count)
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
                    " logits dominate the spread of their row: leave those classes out with a mask."
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


def _first_rows(logits: Tensor, rows: int) -> Tensor:
    """Return the first of the rows of (N, C) or (N, C, *) logits, (rows, C), without a copy of the others."""
    if logits.dim() > 2:
        samples = -(-rows // max(1, logits.shape[2:].numel()))
        logits = logits[:samples].flatten(2)[..., :rows]
    return as_rows(logits[:rows])[:rows]


_shared: dict[tuple[RankMethod, int], SpearmanWatch] = {}


def shared_watch(method: RankMethod, classes: int) -> SpearmanWatch:
    """Return the one watch of this process for such input: what the function form of the loss uses.

    Not one per softness: that may change from call to call, and each would be looked at anew.
    """
    return _shared.setdefault((method, classes), SpearmanWatch())

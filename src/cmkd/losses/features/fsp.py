"""FSP: how the features of one stage become those of the next."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from cmkd.errors import InputError
from cmkd.losses.features.base import FeatureLoss
from cmkd.losses.features.outputs import FeatureBatch, Trial
from cmkd.losses.features.shaping import as_map, to_common_size


class FSPLoss(FeatureLoss):
    r"""FSP (Yim et al. 2017): squared distance of the flow between stages.

    The flow from one map to the next is the matrix $G = \frac{1}{hw} \sum_p f_1(p) f_2(p)^\top$ of all pairs
    of their channels, averaged over positions; the term is the mean squared difference of the networks'
    entries, summed over the flows: A Gift from Knowledge Distillation (CVPR 2017), eq. 1 and 2, which has the
    sum over the entries; the mean is RepDistiller's. The larger of two maps is pooled down to the smaller.

    Three things differ from what is published. The paper and RepDistiller train with this term alone first,
    and then with the labels alone; here it stands beside the cross-entropy from the start, so no published
    weight belongs to it: the default is the one in RepDistiller's scripts, whose code multiplies zero by it.
    RepDistiller's flows begin at the stem, here they begin at the first stage; the stem may be named. And
    both need networks of equal widths: where they differ, the student's map passes through a learnt 1 x 1
    convolution here.

    Args:
        weight: Factor of the term.
        student_layers: Names of two or more of the student's layers, from early to late; None takes the ends
            of all stages.
        teacher_layers: Names of the teacher's layers, paired with them.
    """

    def __init__(
        self,
        *,
        weight: float = 50.0,
        student_layers: list[str] | None = None,
        teacher_layers: list[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, student_layers=student_layers, teacher_layers=teacher_layers)

    def make(self, trial: Trial) -> None:
        """Make a bridge for each layer whose widths differ."""
        if len(trial.student) < 2:
            raise InputError("FSP looks at what happens between layers: name two or more of each network.")
        pairs = zip(map(as_map, trial.student), map(as_map, trial.teacher), strict=True)
        widths = [(student.shape[1], teacher.shape[1]) for student, teacher in pairs]
        self.bridges = nn.ModuleList(
            nn.Identity() if width == wanted else nn.Conv2d(width, wanted, 1, bias=False)
            for width, wanted in widths
        )

    def compare(self, batch: FeatureBatch) -> Tensor:
        """Return the mean squared distance of the flows, summed over them."""
        total = batch.student[0].new_zeros(())
        student = [bridge(as_map(x)) for bridge, x in zip(self.bridges, batch.student, strict=True)]
        for ours, theirs in zip(pairwise(student), pairwise(batch.teacher), strict=True):
            total = total + F.mse_loss(_flow(*ours), _flow(*theirs))
        return total


def _flow(first: Tensor, second: Tensor) -> Tensor:
    """Return (N, C, D) for maps of C and D channels."""
    first, second = (x.flatten(2) for x in to_common_size(first, second))
    return first @ second.transpose(1, 2) / first.shape[2]

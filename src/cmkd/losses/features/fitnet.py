"""FitNet: the student's hint layer predicts the teacher's."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from cmkd.losses.features.base import FeatureLoss
from cmkd.losses.features.outputs import FeatureBatch, NetworkLayers, Trial
from cmkd.losses.features.shaping import as_map, pool_to


class FitNetLoss(FeatureLoss):
    r"""FitNet (Romero et al. 2015): squared distance of a middle layer, through a learnt regressor.

    $\frac{1}{n}\|r(f_s) - f_t\|^2$, the mean over all values, with a regressor $r$ of convolution, batch norm
    and ReLU: Romero et al. 2015, FitNets: Hints for Thin Deep Nets (arXiv 1412.6550), eq. 3. As in
    RepDistiller and mdistiller, whose weight and layer (the end of the second stage) are the defaults, the
    term is added to the cross-entropy from the start; the paper trains up to the hint layer first.

    Where the teacher's map has half or twice the size of the student's, the regressor changes it by a
    strided convolution, as published; any other size is pooled or interpolated to the teacher's, and the
    convolution is 1 x 1 (published: one as large as the difference of the sizes, and none at all for
    enlarging).

    Args:
        weight: Factor of the term.
        student_layers: Names of the student's layers; None takes the end of the second stage.
        teacher_layers: Names of the teacher's layers, paired with them.
    """

    def __init__(
        self,
        *,
        weight: float = 100.0,
        student_layers: list[str] | None = None,
        teacher_layers: list[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, student_layers=student_layers, teacher_layers=teacher_layers)

    def student_rule(self, layers: NetworkLayers) -> Sequence[str]:
        """Return the end of the second stage."""
        return layers.stages[:2][-1:]

    def make(self, trial: Trial) -> None:
        """Make one regressor per layer."""
        pairs = zip(trial.student, trial.teacher, strict=True)
        self.regressors = nn.ModuleList(_regressor(as_map(s), as_map(t)) for s, t in pairs)

    def compare(self, batch: FeatureBatch) -> Tensor:
        """Return the mean squared distance, summed over the layers."""
        total = batch.student[0].new_zeros(())
        for regressor, student, teacher in zip(self.regressors, batch.student, batch.teacher, strict=True):
            target = as_map(teacher)
            predicted = _resize(regressor(as_map(student)), (target.shape[2], target.shape[3]))
            total = total + F.mse_loss(predicted, target)
        return total


def _regressor(student: Tensor, teacher: Tensor) -> nn.Sequential:
    widths = student.shape[1], teacher.shape[1]
    size, wanted = student.shape[2:], teacher.shape[2:]
    convolution: nn.Module
    if size == tuple(2 * side for side in wanted):
        convolution = nn.Conv2d(*widths, 3, stride=2, padding=1)
    elif wanted == tuple(2 * side for side in size):
        convolution = nn.ConvTranspose2d(*widths, 4, stride=2, padding=1)
    else:
        convolution = nn.Conv2d(*widths, 1)
    return nn.Sequential(convolution, nn.BatchNorm2d(teacher.shape[1]), nn.ReLU())


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    if x.shape[2] >= size[0] and x.shape[3] >= size[1]:
        return pool_to(x, size)
    return F.interpolate(x, size, mode="nearest")

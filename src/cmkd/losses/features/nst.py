"""NST: which patterns over the image the channels respond to."""

from __future__ import annotations

from torch import Tensor

from cmkd.losses.features.base import FeatureLoss
from cmkd.losses.features.outputs import FeatureBatch
from cmkd.losses.features.shaping import to_common_size, unit


class NSTLoss(FeatureLoss):
    r"""NST (Huang and Wang 2017): the channels of both networks as samples of one distribution.

    Each channel of an image is a vector over positions, divided by its length; the term is their squared
    maximum mean discrepancy with the kernel $k(x, y) = (x^\top y)^2$, averaged over the images and summed
    over the stages: Like What You Like (arXiv 1707.01219), with the polynomial kernel. The larger map is
    pooled down to the smaller. Layers and weight are those of RepDistiller and mdistiller.

    A channel that is zero everywhere has the kernel 0 with all, without gradient.

    Args:
        weight: Factor of the term.
        student_layers: Names of the student's layers; None takes the ends of all stages.
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

    def compare(self, batch: FeatureBatch) -> Tensor:
        """Return the squared discrepancy, summed over the layers."""
        total = batch.student[0].new_zeros(())
        for student, teacher in zip(batch.student, batch.teacher, strict=True):
            student, teacher = to_common_size(student, teacher)
            student, teacher = unit(student.flatten(2)), unit(teacher.flatten(2))
            within = _kernel_mean(student, student) + _kernel_mean(teacher, teacher)
            total = total + within - 2 * _kernel_mean(student, teacher)
        return total


def _kernel_mean(x: Tensor, y: Tensor) -> Tensor:
    """Mean kernel of all channels of (N, C, P) with all channels of (N, D, P)."""
    return (x @ y.transpose(1, 2)).square().mean()

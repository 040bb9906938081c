"""ReviewKD: deep layers of the student help shallow ones to learn the teacher's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmkd.losses.features.base import FeatureLoss
from cmkd.losses.features.outputs import FeatureBatch, NetworkLayers, Trial
from cmkd.losses.features.shaping import as_map, pool_to

_WIDEST = 512
# Sides to which maps are pooled; each further one counts half.
_LEVELS = (4, 2, 1)


class ReviewKDLoss(FeatureLoss):
    r"""ReviewKD (Chen et al. 2021): stages fused from the last to the first, each held against the teacher's.

    From the pooled embedding back to the first stage, the student's features are fused with what came from
    the stage behind, by learnt attention (ABF), and the result is compared with the teacher's features of
    that stage, at full size and pooled to 4, 2 and 1 (HCL): Distilling Knowledge via Knowledge Review (arXiv
    2104.09044), section 3. HCL is the mean squared distance averaged over the sizes below the map's own with
    the weights 1, 1/2, 1/4, 1/8.

    As in the published code, the teacher's stages are taken before their last activation (a wide ResNet's
    after the next batch norm), the student's as they leave the stage.

    The authors' scripts for CIFAR-100 have a weight for each pair of networks: 0.6 for ResNet56 and ResNet20,
    1 for ResNet110 and ResNet32, 8 for ResNet32x4 and ShuffleNetV2, and 5 for all others in them (ResNet32x4
    with ResNet8x4 or ShuffleNetV1, WRN-40-2 with WRN-16-2, WRN-40-1 or ShuffleNetV1). They raise it linearly
    over the first 20 epochs: `--distill_warmup_epochs 20`, or a factor in a loop of one's own.

    Args:
        weight: Factor of the term; the default does not suit every pair of networks.
        student_layers: Names of the student's layers, from early to late; None takes the ends of all stages
            and the pooled embedding.
        teacher_layers: Names of the teacher's layers, paired with them.
    """

    def __init__(
        self,
        *,
        weight: float = 5.0,
        student_layers: list[str] | None = None,
        teacher_layers: list[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, student_layers=student_layers, teacher_layers=teacher_layers)

    def student_rule(self, layers: NetworkLayers) -> Sequence[str]:
        """Return the ends of all stages and the pooled embedding."""
        return [*layers.stages, layers.pooled]

    def teacher_rule(self, layers: NetworkLayers) -> Sequence[str]:
        """Return the same before the last activation of each stage."""
        return [*layers.preactivations, layers.pooled]

    def make(self, trial: Trial) -> None:
        """Make one fusion per layer."""
        widths = [as_map(x).shape[1] for x in trial.student]
        wanted = [as_map(x).shape[1] for x in trial.teacher]
        common, last = min(_WIDEST, widths[-1]), len(widths) - 1
        self.fusions = nn.ModuleList(
            _Fusion(widths[place], common, wanted[place], fuses=place < last) for place in range(last + 1)
        )

    def compare(self, batch: FeatureBatch) -> Tensor:
        """Return the hierarchical distance, summed over the layers."""
        total, carried = batch.student[0].new_zeros(()), None
        for place in reversed(range(len(self.fusions))):
            teacher = as_map(batch.teacher[place])
            size = (teacher.shape[2], teacher.shape[3])
            predicted, carried = self.fusions[place](as_map(batch.student[place]), carried, size)
            total = total + _hierarchical_distance(predicted, teacher)
        return total


class _Fusion(nn.Module):
    """Attention-based fusion (ABF) of a stage with what came from the stage behind it."""

    def __init__(self, width: int, common: int, wanted: int, *, fuses: bool) -> None:
        super().__init__()
        self.reduce = _convolution(width, common, 1)
        self.attend = nn.Conv2d(2 * common, 2, 1) if fuses else None
        self.predict = _convolution(common, wanted, 3)

    def forward(self, x: Tensor, carried: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return what is compared with the teacher and what goes to the stage before, both of a size."""
        x = self.reduce(x)
        if self.attend is not None and carried is not None:
            carried = _resize(carried, (x.shape[2], x.shape[3]))
            share = self.attend(torch.cat([x, carried], dim=1)).sigmoid()
            x = x * share[:, :1] + carried * share[:, 1:]
        x = _resize(x, size)
        return self.predict(x), x


def _convolution(width: int, wanted: int, side: int) -> nn.Sequential:
    convolution = nn.Conv2d(width, wanted, side, padding=side // 2, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(wanted))


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if x.shape[2:] == size else F.interpolate(x, size, mode="nearest")


def _hierarchical_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared distance (HCL) of maps (N, C, H, W), at full size and pooled."""
    distance, factor, total = F.mse_loss(student, teacher), 1.0, 1.0
    for side in _LEVELS:
        if side < min(student.shape[2:]):
            factor /= 2
            total += factor
            size = (side, side)
            distance = distance + factor * F.mse_loss(pool_to(student, size), pool_to(teacher, size))
    return distance / total

"""OFD: the teacher's features before their activation, as far as the activation lets them through."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cmkd.losses.features.base import FeatureLoss
from cmkd.losses.features.outputs import FeatureBatch, NetworkLayers, Trial
from cmkd.losses.features.shaping import as_map, pool_to


class OFDLoss(FeatureLoss):
    r"""OFD (Heo et al. 2019): partial squared distance to the teacher's features before ReLU.

    With $\sigma(t) = \max(t, m_c)$ and a margin $m_c < 0$ per channel, each value adds $(s - \sigma(t))^2$,
    but nothing where $s \le \sigma(t)$ and $t \le 0$. The sum over all values of an image is averaged over
    the batch, and the stages are added with weights that halve from the last to the first: A Comprehensive
    Overhaul of Feature Distillation (arXiv 1904.01866), section 3, with the weights of the authors' code. The
    student passes through a 1 x 1 convolution and batch norm; the teacher's map is pooled to its size.

    The margin is the mean negative response of the channel, 0 where there is none. This measures it on the
    trial batch that `build` gets, so that any network will do; that batch should hold real images, a hundred
    or so. Published is another estimate, from weight and bias of the batch norm before the ReLU as if its
    output were normal, and minus three times the weight where hardly anything is negative; in a ResNet that
    is the last one of the block, so that its margin leaves the shortcut out.

    Two more things differ from the authors' code. It runs the teacher in training mode, with the statistics
    of each batch; here the teacher stays in evaluation mode, as for all methods. And it does not pool: the
    networks have to have maps of equal sizes. The weight is theirs for CIFAR-100; on ImageNet it is 1e-4.

    Args:
        weight: Factor of the term.
        student_layers: Names of the student's layers, from early to late; None takes all stages before their
            last activation, those of a wide ResNet after the next batch norm, as published.
        teacher_layers: Names of the teacher's layers, paired with them.
    """

    def __init__(
        self,
        *,
        weight: float = 1e-3,
        student_layers: list[str] | None = None,
        teacher_layers: list[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, student_layers=student_layers, teacher_layers=teacher_layers)

    def student_rule(self, layers: NetworkLayers) -> Sequence[str]:
        """Return all stages before their last activation."""
        return layers.preactivations

    def make(self, trial: Trial) -> None:
        """Make the connectors, and measure the margins."""
        self.connectors = nn.ModuleList()
        for place, (student, teacher) in enumerate(zip(trial.student, trial.teacher, strict=True)):
            student, teacher = as_map(student), as_map(teacher)
            self.connectors.append(_connector(student.shape[1], teacher.shape[1]))
            self.register_buffer(f"margin_{place}", _margin(teacher))

    def compare(self, batch: FeatureBatch) -> Tensor:
        """Return the partial distance, summed over the layers."""
        total = batch.student[0].new_zeros(())
        last = len(self.connectors) - 1
        for place, connector in enumerate(self.connectors):
            student = connector(as_map(batch.student[place]))
            teacher = pool_to(as_map(batch.teacher[place]), (student.shape[2], student.shape[3]))
            distance = _partial_distance(student, teacher, self.get_buffer(f"margin_{place}"))
            total = total + distance / 2 ** (last - place)
        return total


def _connector(width: int, wanted: int) -> nn.Sequential:
    convolution = nn.Conv2d(width, wanted, 1, bias=False)
    nn.init.normal_(convolution.weight, 0.0, math.sqrt(2 / wanted))
    return nn.Sequential(convolution, nn.BatchNorm2d(wanted))


def _margin(x: Tensor) -> Tensor:
    """Mean of the negative values of each channel, (C, 1, 1); 0 where there are none."""
    negative = x.clamp(max=0)
    count = (negative < 0).sum((0, 2, 3)).clamp(min=1)
    return (negative.sum((0, 2, 3)) / count)[:, None, None]


def _partial_distance(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    wanted = torch.maximum(teacher, margin)
    counts = (student > wanted) | (teacher > 0)
    return torch.where(counts, (student - wanted).square(), 0.0).flatten(1).sum(1).mean()

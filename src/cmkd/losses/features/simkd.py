"""SimKD: the student ends in the teacher's classifier, and learns what that reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from cmkd.errors import InputError
from cmkd.losses.features.base import FeatureLoss
from cmkd.losses.features.outputs import FeatureBatch, NetworkLayers
from cmkd.losses.features.shaping import to_common_size


class SimKDLoss(FeatureLoss):
    r"""SimKD (Chen et al. 2022): the teacher's classifier, behind a projector that imitates its last map.

    $\|f_t - P(f_s)\|^2$, the mean over all values: Knowledge Distillation with the Reused Teacher Classifier
    (arXiv 2203.14001), section 3.2. $f$ are the last maps, before they are pooled, and $P$ is a projector,
    three convolutions with batch norm and ReLU. There is no other term: neither the labels nor the teacher's
    logits have a weight. The larger map is pooled down to the smaller.

    What answers is the teacher's classifier on the average of $P(f_s)$, so that the network that is trained
    and exported is another one than the one that was named: it ends in the projector and the teacher's
    classifier, which stays as it is, and has none of its own. `cmkd distill` makes it, and
    `cmkd.models.reuse_classifier(student, teacher)` in a loop of one's own. The projector has many weights:
    214,016 between resnet8x4 and resnet32x4.

    The published code takes the end of the last stage, this what goes into the pooling, which is the same
    except where more follows the last stage (MobileNetV2, wide ResNets). The projector ends in a ReLU, as the
    teachers' maps in the paper do; one with negative values is met as far as that goes.

    Args:
        weight: Factor of the term.
        student_layers: Name of the student's layer, in a list; None takes the projector.
        teacher_layers: Name of the teacher's layer, whose average its classifier has to read; None takes what
            goes into its pooling.
    """

    reuses_classifier = True

    def __init__(
        self,
        *,
        weight: float = 1.0,
        student_layers: list[str] | None = None,
        teacher_layers: list[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, student_layers=student_layers, teacher_layers=teacher_layers)
        for layers in (student_layers, teacher_layers):
            if layers is not None and len(layers) != 1:
                raise InputError(f"SimKD compares one layer of each network, not {layers}: name one.")

    @property
    def task_weight(self) -> float:
        """Weight of the cross-entropy: none, as published."""
        return 0.0

    def student_rule(self, layers: NetworkLayers) -> Sequence[str]:
        """Return the projector."""
        if not layers.projector:
            raise InputError(
                "SimKD compares a projector's output, and the student has none: call "
                "cmkd.models.reuse_classifier(student, teacher) first."
            )
        return [layers.projector]

    def teacher_rule(self, layers: NetworkLayers) -> Sequence[str]:
        """Return what goes into the pooling."""
        return [layers.before_pooling]

    def compare(self, batch: FeatureBatch) -> Tensor:
        """Return the mean squared distance of the maps."""
        student, teacher = to_common_size(batch.student[0], batch.teacher[0])
        if student.shape[1] != teacher.shape[1]:
            raise InputError(
                f"SimKD compares {teacher.shape[1]} channels of the teacher with as many of a projector, not "
                f"with {student.shape[1]}: leave student_layers out."
            )
        return F.mse_loss(student, teacher)

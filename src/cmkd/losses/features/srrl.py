"""SRRL: the teacher's classifier reads the student's representation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from cmkd.errors import InputError
from cmkd.losses.features.base import FeatureLoss
from cmkd.losses.features.outputs import FeatureBatch, NetworkLayers, Trial
from cmkd.losses.features.shaping import as_map


class SRRLLoss(FeatureLoss):
    r"""SRRL (Yang et al. 2021): the student's representation gives the teacher's logits.

    The last map of the student, through a learnt 1 x 1 convolution, batch norm and ReLU and averaged over
    positions, is a vector $h_s$ of the teacher's width. The term is the mean squared distance to the
    teacher's pooled embedding $h_t$ plus that of the logits which the teacher's frozen classifier makes of
    both, $\frac{1}{D}\|h_s - h_t\|^2 + \frac{1}{C}\|W h_s - W h_t\|^2$, averaged over images: Knowledge
    Distillation via Softmax Regression Representation Learning (ICLR 2021), section 3. The means over $D$ and
    $C$, the connector and its first weights are those of the authors' code, which adds the two terms with one
    common weight; the default here is 1. That code averages the last map of the teacher over positions, too;
    this takes the teacher's embedding, which is the same for a teacher that pools so, and serves any other.

    Args:
        weight: Factor of the term.
        student_layers: Name of the student's layer, in a list; None takes the end of the last stage.
        teacher_layers: Name of the teacher's layer; None takes the pooled embedding.
    """

    needs_classifier = True
    classifier_weight: Tensor
    classifier_bias: Tensor | None

    def __init__(
        self,
        *,
        weight: float = 1.0,
        student_layers: list[str] | None = None,
        teacher_layers: list[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, student_layers=student_layers, teacher_layers=teacher_layers)

    def student_rule(self, layers: NetworkLayers) -> Sequence[str]:
        """Return the end of the last stage."""
        return layers.stages[-1:]

    def teacher_rule(self, layers: NetworkLayers) -> Sequence[str]:
        """Return the pooled embedding."""
        return [layers.pooled]

    def make(self, trial: Trial) -> None:
        """Make the connector, and keep a copy of the teacher's classifier."""
        width, classifier = trial.teacher[0][0].numel(), trial.classifier
        if len(trial.student) != 1:
            raise InputError(f"SRRL compares one layer, not {len(trial.student)}: name one of each network.")
        if not isinstance(classifier, nn.Linear) or classifier.in_features != width:
            raise InputError(
                f"the teacher's classifier is {classifier} and its embedding has {width} values: SRRL needs "
                "the linear layer that reads this embedding."
            )
        convolution = nn.Conv2d(as_map(trial.student[0]).shape[1], width, 1, bias=False)
        nn.init.normal_(convolution.weight, 0.0, math.sqrt(2 / width))
        self.connector = nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())
        self.register_buffer("classifier_weight", classifier.weight.detach().clone())
        bias = None if classifier.bias is None else classifier.bias.detach().clone()
        self.register_buffer("classifier_bias", bias)

    def compare(self, batch: FeatureBatch) -> Tensor:
        """Return the distance of the embeddings plus that of the logits."""
        student = self.connector(as_map(batch.student[0])).mean((2, 3))
        teacher = batch.teacher[0].flatten(1)
        logits = F.linear(student, self.classifier_weight, self.classifier_bias)
        wanted = F.linear(teacher, self.classifier_weight, self.classifier_bias)
        return F.mse_loss(student, teacher) + F.mse_loss(logits, wanted)

"""SP: which images of a batch the networks find alike."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from cmkd.losses.features.base import FeatureLoss
from cmkd.losses.features.outputs import FeatureBatch, NetworkLayers
from cmkd.losses.features.shaping import unit, without_scale


class SPLoss(FeatureLoss):
    r"""SP (Tung and Mori 2019): squared distance of the similarities within the batch.

    With the features of the batch as rows of $F$, $G$ is $F F^\top$ with each row divided by its 2-norm, and
    the term $\frac{1}{b^2}\|G_t - G_s\|_F^2$: Similarity-Preserving Knowledge Distillation (arXiv
    1907.09682), eq. 4. The weight is that of RepDistiller and mdistiller, and so is the layer.

    An image whose features are all zero is similar to none, itself included, without gradient.

    Args:
        weight: Factor of the term.
        student_layers: Names of the student's layers; None takes the end of the last stage.
        teacher_layers: Names of the teacher's layers, paired with them.

    Example:
        >>> import torch
        >>> from cmkd.losses.features import Outputs
        >>> apart, alike = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.6, 0.8], [0.6, 0.8]])
        >>> logits = torch.zeros(2, 10)
        >>> SPLoss(weight=1.0)(Outputs(logits, {"a": apart}), Outputs(logits, {"a": alike}))
        tensor(0.2929)
    """

    def __init__(
        self,
        *,
        weight: float = 3000.0,
        student_layers: list[str] | None = None,
        teacher_layers: list[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, student_layers=student_layers, teacher_layers=teacher_layers)

    @property
    def across_batch(self) -> bool:
        """Yes: it compares images with each other."""
        return True

    def student_rule(self, layers: NetworkLayers) -> Sequence[str]:
        """Return the end of the last stage."""
        return layers.stages[-1:]

    def compare(self, batch: FeatureBatch) -> Tensor:
        """Return the squared distance of the similarities, summed over the layers."""
        total = batch.student[0].new_zeros(())
        for student, teacher in zip(batch.student, batch.teacher, strict=True):
            total = total + (_similarities(student) - _similarities(teacher)).square().mean()
        return total


def _similarities(x: Tensor) -> Tensor:
    """Map features (N, *) to similarities (N, N) with rows of length 1."""
    x = without_scale(x.flatten(1))
    return unit(x @ x.T)

"""PKT: the batch as a probability distribution of neighbours."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from cmkd.losses.features.base import FeatureLoss
from cmkd.losses.features.outputs import FeatureBatch, NetworkLayers
from cmkd.losses.features.shaping import unit

# As published: keeps the logarithm of two opposite embeddings finite.
_EPSILON = 1e-7


class PKTLoss(FeatureLoss):
    r"""PKT (Passalis and Tefas 2018): divergence of the distributions over the images of the batch.

    $p_{ij} = k_{ij} / \sum_j k_{ij}$ with $k_{ij} = (\cos(x_i, x_j) + 1) / 2$, and the term the mean over all
    pairs of $p^t_{ij} \log(p^t_{ij} / p^s_{ij})$: Learning Deep Representations with Probabilistic Knowledge
    Transfer (arXiv 1803.10837), with the cosine kernel. As in the authors' code the pairs of an image with
    itself count, and the divergence is averaged, where the paper sums; the weight goes with that.

    An embedding of zeros has cosine 0 with all, without gradient.

    Args:
        weight: Factor of the term.
        student_layers: Names of the student's layers; None takes the pooled embedding.
        teacher_layers: Names of the teacher's layers, paired with them.

    Example:
        >>> import torch
        >>> from cmkd.losses.features import Outputs
        >>> apart, alike = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.6, 0.8], [0.6, 0.8]])
        >>> logits = torch.zeros(2, 10)
        >>> PKTLoss(weight=1.0)(Outputs(logits, {"a": apart}), Outputs(logits, {"a": alike}))
        tensor(0.0294)
    """

    def __init__(
        self,
        *,
        weight: float = 30000.0,
        student_layers: list[str] | None = None,
        teacher_layers: list[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, student_layers=student_layers, teacher_layers=teacher_layers)

    @property
    def across_batch(self) -> bool:
        """Yes: it compares images with each other."""
        return True

    def student_rule(self, layers: NetworkLayers) -> Sequence[str]:
        """Return the pooled embedding."""
        return [layers.pooled]

    def compare(self, batch: FeatureBatch) -> Tensor:
        """Return the mean divergence, summed over the layers."""
        total = batch.student[0].new_zeros(())
        for student, teacher in zip(batch.student, batch.teacher, strict=True):
            p_student, p_teacher = _neighbours(student), _neighbours(teacher)
            ratio = (p_teacher + _EPSILON) / (p_student + _EPSILON)
            total = total + (p_teacher * ratio.log()).mean()
        return total


def _neighbours(x: Tensor) -> Tensor:
    """Map features (N, *) to probabilities (N, N)."""
    x = unit(x.flatten(1))
    kernel = ((x @ x.T + 1) / 2).clamp(min=0)
    return kernel / kernel.sum(1, keepdim=True)

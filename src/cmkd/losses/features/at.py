"""AT: where in the image the networks look."""

from __future__ import annotations

from torch import Tensor

from cmkd.errors import InputError
from cmkd.losses.base import check_number
from cmkd.losses.features.base import FeatureLoss
from cmkd.losses.features.outputs import FeatureBatch
from cmkd.losses.features.shaping import to_common_size, unit


class ATLoss(FeatureLoss):
    r"""AT (Zagoruyko and Komodakis 2017): squared distance of the attention maps of all stages.

    The attention of an image is the vector over positions $q = \frac{a}{\|a\|_2}$ with
    $a = \frac{1}{C}\sum_c |f_c|^p$. The term is the mean over images and positions of $(q_s - q_t)^2$, summed
    over the stages: Paying More Attention to Attention (arXiv 1612.03928), section 3.1. The larger map is
    pooled down to the smaller. The square, the mean over positions and the weight are those of the authors'
    code and its successors; eq. 2 of the paper has the norm of the difference, halved, and divides the weight
    $10^3$ by the number of positions and the batch size.

    An image whose map is zero everywhere has zero attention and no gradient.

    Args:
        p: Power $p$ of the activations, at least 1.
        weight: Factor of the term.
        student_layers: Names of the student's layers; None takes the ends of all stages.
        teacher_layers: Names of the teacher's layers, paired with them.

    Example:
        >>> import torch
        >>> from cmkd.losses.features import Outputs
        >>> map_s, map_t = torch.tensor([[[[3.0, 0.0]]]]), torch.tensor([[[[0.0, 2.0]]]])
        >>> logits = torch.zeros(1, 10)
        >>> ATLoss(weight=1.0)(Outputs(logits, {"a": map_s}), Outputs(logits, {"a": map_t}))
        tensor(1.)
    """

    def __init__(
        self,
        *,
        p: float = 2.0,
        weight: float = 1000.0,
        student_layers: list[str] | None = None,
        teacher_layers: list[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, student_layers=student_layers, teacher_layers=teacher_layers)
        check_number("p", p)
        if p < 1:
            raise InputError(f"p is {p}: below 1 the slope at an activation of zero is infinite.")
        self.p = p

    def compare(self, batch: FeatureBatch) -> Tensor:
        """Return the mean squared distance of the attentions, summed over the layers."""
        total = batch.student[0].new_zeros(())
        for student, teacher in zip(batch.student, batch.teacher, strict=True):
            student, teacher = to_common_size(student, teacher)
            difference = _attention(student, self.p) - _attention(teacher, self.p)
            total = total + difference.square().mean()
        return total


def _attention(x: Tensor, p: float) -> Tensor:
    """Map features (N, C, H, W) to attentions (N, H * W) of length 1."""
    x = x.flatten(2)
    # Powers overflow; the scale of an image is none of its attention.
    largest = x.detach().abs().amax((1, 2), keepdim=True)
    x = x / largest.clamp(min=1e-30)
    return unit(x.abs().pow(p).mean(1))

"""Knowledge distillation by Kullback-Leibler divergence (Hinton et al. 2015)."""

from __future__ import annotations

from torch import Tensor

from cmkd.functional import kl_divergence
from cmkd.functional.logits import REDUCTIONS, Reduction
from cmkd.functional.precision import full_precision
from cmkd.losses.base import DistillationLoss, check_choice, check_number, flatten, reduce


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor | None = None,
    *,
    temperature: float = 4.0,
    alpha: float = 0.9,
    logit_standardization: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Divergence of the tempered distributions, $\alpha T^2 \, \mathrm{KL}(p_t \| p_s)$.

    $p = \mathrm{softmax}(x / T)$. The distillation term alone, without cross-entropy: Hinton et al. 2015,
    Distilling the Knowledge in a Neural Network (arXiv 1503.02531), train on
    $(1 - \alpha)\,\mathrm{CE} + \alpha T^2\,\mathrm{KL}$.

    Args:
        student_logits: (N, C) or (N, C, *).
        teacher_logits: Of the same shape; no gradient flows into it.
        target: (N,) or (N, *) int64; checked, not used.
        temperature: $T > 0$.
        alpha: Weight $\alpha$ of this term.
        logit_standardization: Replace both logits by their z-scores per row, with the unbiased standard
            deviation, before the temperature (Sun et al. 2024, arXiv 2403.01427). Their setting for it is
            temperature 2 and alpha 9.
        reduction: `"mean"` or `"sum"` over samples and positions, or `"none"`.

    Returns:
        A scalar, or (N, *) for `"none"`; float64 if an input is float64, else float32.

    Raises:
        InputError: Input or option out of its domain; see `cmkd.losses.base.flatten`.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 4.0]])
        >>> kd_loss(student, teacher)
        tensor(1.5976)
    """
    _check_options(temperature, alpha, reduction)
    student, teacher, _, shape = flatten(
        student_logits, teacher_logits, target, logit_standardization=logit_standardization
    )
    with full_precision(student):
        divergence = kl_divergence(student, teacher, temperature=temperature)
        return reduce(alpha * temperature**2 * divergence, shape, reduction)


class KDLoss(DistillationLoss):
    r"""KD (Hinton et al. 2015): KL divergence of softened probabilities.

    Module form of `kd_loss`, $\alpha T^2 \, \mathrm{KL}(p_t \| p_s)$. The distillation term alone; the
    objective is `task_weight * cross_entropy + loss`.

    Args:
        temperature: $T > 0$.
        alpha: Weight $\alpha$ of this term.
        logit_standardization: z-score both logits per row first (Sun et al. 2024); then take temperature 2
            and alpha 9.
        reduction: `"mean"` or `"sum"` over samples and positions, or `"none"`.

    Example:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> distill = KDLoss(temperature=4.0)
        >>> logits, target = torch.zeros(1, 2), torch.tensor([1])
        >>> teacher_logits = torch.tensor([[0.0, 4.0]])
        >>> task = F.cross_entropy(logits, target)
        >>> distill.task_weight * task + distill(logits, teacher_logits, target)
        tensor(1.6669)
    """

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        alpha: float = 0.9,
        logit_standardization: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        _check_options(temperature, alpha, reduction)
        self.temperature = temperature
        self.alpha = alpha
        self.logit_standardization = logit_standardization

    @property
    def task_weight(self) -> float:
        """Cross-entropy weight: 1 - alpha, or 0.1 beside a larger alpha, as Sun et al. 2024 keep it."""
        return round(1.0 - self.alpha, 12) if self.alpha <= 1 else 0.1

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss; arguments, shapes and errors as in `kd_loss`."""
        return kd_loss(
            student_logits,
            teacher_logits,
            target,
            temperature=self.temperature,
            alpha=self.alpha,
            logit_standardization=self.logit_standardization,
            reduction=self.reduction,
        )


def _check_options(temperature: float, alpha: float, reduction: str) -> None:
    check_number("temperature", temperature, positive=True)
    check_number("alpha", alpha)
    check_choice("reduction", reduction, REDUCTIONS)

"""Normalized knowledge distillation: the target's probability, and the others' shares among themselves."""

from __future__ import annotations

from torch import Tensor

from cmkd.errors import InputError
from cmkd.functional import log_probabilities
from cmkd.functional.logits import REDUCTIONS, Reduction
from cmkd.functional.precision import full_precision
from cmkd.losses.base import DistillationLoss, check_choice, check_number, flatten, reduce
from cmkd.losses.dkd import other_classes


def nkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor | None = None,
    *,
    temperature: float = 3.0,
    gamma: float = 3.5,
    logit_standardization: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""NKD, $-T_t \log S_t - \gamma \lambda^2 \sum_{i \ne t} \hat T_i \log \hat S_i$.

    $T$ and $S$ are the softmax probabilities of teacher and student, $t$ is the target; $\hat T$ and $\hat S$
    are those of the other classes alone, at temperature $\lambda$, so that they sum to 1 on both sides: Yang
    et al. 2023, From Knowledge Distillation to Self-Knowledge Distillation (arXiv 2303.13005), as NKD.
    Cross-entropies, as in the paper, and no divergences: the loss of a perfect student is not zero, though
    the gradient of its second part is.

    The distillation term alone; the paper adds cross-entropy with weight 1. Its CIFAR-100 setting (ResNet-34
    to ResNet-18) is the default here, on ImageNet it takes temperature 1 and gamma 1.5. One revision of the
    published code left the target among the others, by a slip in a mask; the formula and the later code leave
    it out, as is done here. With two classes the second part is 0.

    Args:
        student_logits: (N, C) or (N, C, *).
        teacher_logits: Of the same shape; no gradient flows into it.
        target: (N,) or (N, *) int64; required.
        temperature: $\lambda > 0$, of the non-target part.
        gamma: Weight $\gamma$ of the non-target part.
        logit_standardization: z-score both logits per row first (Sun et al. 2024, arXiv 2403.01427).
        reduction: `"mean"` or `"sum"` over samples and positions, or `"none"`.

    Returns:
        A scalar, or (N, *) for `"none"`; float64 if an input is float64, else float32.

    Raises:
        InputError: No target; input or option out of its domain, see `cmkd.losses.base.flatten`.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[4.0, 0.0, 0.0]])
        >>> nkd_loss(student, teacher, torch.tensor([0]), temperature=1.0, gamma=1.5)
        tensor(2.0995)
    """
    _check_options(temperature, gamma, reduction)
    if target is None:
        raise InputError(
            "NKD treats the target class apart, but target is None: pass the labels, (N,) int64."
        )
    student, teacher, labels, shape = flatten(
        student_logits, teacher_logits, target, logit_standardization=logit_standardization
    )
    assert labels is not None  # for the type checker: flatten keeps the target it is given
    with full_precision(student):
        column = labels.unsqueeze(1)
        target_student, target_teacher = (
            log_probabilities(x).gather(1, column).squeeze(1) for x in (student, teacher)
        )
        others_student, others_teacher = (
            log_probabilities(other_classes(x, labels), temperature=temperature) for x in (student, teacher)
        )
        target_part = -target_teacher.exp() * target_student
        other_part = -(others_teacher.exp() * others_student).sum(1)
        return reduce(target_part + gamma * temperature**2 * other_part, shape, reduction)


class NKDLoss(DistillationLoss):
    r"""NKD (Yang et al. 2023): the target's probability, and the others' among themselves.

    Module form of `nkd_loss`, $-T_t \log S_t - \gamma \lambda^2 \sum_{i \ne t} \hat T_i \log \hat S_i$. The
    distillation term alone; the objective is `cross_entropy + loss`.

    Args:
        temperature: $\lambda > 0$, of the non-target part.
        gamma: Weight $\gamma$ of the non-target part.
        logit_standardization: z-score both logits per row first (Sun et al. 2024).
        reduction: `"mean"` or `"sum"` over samples and positions, or `"none"`.

    Example:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> distill = NKDLoss(temperature=1.0, gamma=1.5)
        >>> logits, target = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([1])
        >>> teacher_logits = torch.tensor([[1.0, 3.0, 2.0]])
        >>> loss = F.cross_entropy(logits, target) + distill(logits, teacher_logits, target)
    """

    def __init__(
        self,
        *,
        temperature: float = 3.0,
        gamma: float = 3.5,
        logit_standardization: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        _check_options(temperature, gamma, reduction)
        self.temperature = temperature
        self.gamma = gamma
        self.logit_standardization = logit_standardization

    @property
    def reads_target(self) -> bool:
        """True: the target class is treated apart."""
        return True

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss; arguments, shapes and errors as in `nkd_loss`."""
        return nkd_loss(
            student_logits,
            teacher_logits,
            target,
            temperature=self.temperature,
            gamma=self.gamma,
            logit_standardization=self.logit_standardization,
            reduction=self.reduction,
        )


def _check_options(temperature: float, gamma: float, reduction: str) -> None:
    check_number("temperature", temperature, positive=True)
    check_number("gamma", gamma)
    check_choice("reduction", reduction, REDUCTIONS)

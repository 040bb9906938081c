"""Decoupled knowledge distillation: the target class apart from the ranking of the others."""

from __future__ import annotations

import torch
from torch import Tensor

from cmkd.errors import InputError
from cmkd.functional import log_probabilities
from cmkd.functional.divergence import for_temperature, kl_of_log_probabilities
from cmkd.functional.logits import REDUCTIONS, Reduction
from cmkd.functional.precision import full_precision
from cmkd.losses.base import DistillationLoss, check_choice, check_number, flatten, reduce


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor | None = None,
    *,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    logit_standardization: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""DKD, $T^2 \big(\alpha\,\mathrm{TCKD} + \beta\,\mathrm{NCKD}\big)$.

    TCKD is the divergence of the binary distributions (target class, all others), NCKD that of the
    distributions over the other classes alone, both at temperature $T$: Zhao et al. 2022, Decoupled
    Knowledge Distillation (arXiv 2203.08679), eq. 7. The target's column is left out exactly, where the
    published code subtracts 1000 from it. The distillation term alone; the paper adds cross-entropy with
    weight 1 and raises this term's weight linearly from 0 over the first 20 epochs.

    Args:
        student_logits: (N, C) or (N, C, *).
        teacher_logits: Of the same shape; no gradient flows into it.
        target: (N,) or (N, *) int64; required.
        temperature: $T > 0$.
        alpha: Weight $\alpha$ of the target part.
        beta: Weight $\beta$ of the non-target part; 2, 6 or 8 in the paper's tables, by network pair.
        logit_standardization: z-score both logits per row first, with the unbiased standard deviation (Sun
            et al. 2024, arXiv 2403.01427). Their script then has alpha 9, beta 81 and temperature 4.
        reduction: `"mean"` or `"sum"` over samples and positions, or `"none"`.

    Returns:
        A scalar, or (N, *) for `"none"`; float64 if an input is float64, else float32.

    Raises:
        InputError: No target; input or option out of its domain, see `cmkd.losses.base.flatten`.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[4.0, 0.0, 0.0]])
        >>> dkd_loss(student, teacher, torch.tensor([0]), temperature=4.0)
        tensor(1.9726)
    """
    _check_options(temperature, alpha, beta, reduction)
    if target is None:
        raise InputError(
            "DKD treats the target class apart, but target is None: pass the labels, (N,) int64."
        )
    student, teacher, labels, shape = flatten(
        student_logits, teacher_logits, target, logit_standardization=logit_standardization
    )
    assert labels is not None  # for the type checker: flatten keeps the target it is given
    with full_precision(student):
        binary_student, others_student = _decouple(for_temperature(student, temperature), labels, temperature)
        binary_teacher, others_teacher = _decouple(for_temperature(teacher, temperature), labels, temperature)
        target_part = kl_of_log_probabilities(binary_student, binary_teacher)
        other_part = kl_of_log_probabilities(others_student, others_teacher)
        per_sample = temperature**2 * (alpha * target_part + beta * other_part)
        return reduce(per_sample.to(student.dtype), shape, reduction)


class DKDLoss(DistillationLoss):
    r"""DKD (Zhao et al. 2022): the KL divergence, split into target and non-target classes.

    Module form of `dkd_loss`, $T^2 (\alpha\,\mathrm{TCKD} + \beta\,\mathrm{NCKD})$. The distillation term
    alone; the objective is `cross_entropy + loss`, with the paper's linear warm-up of this term over the
    first 20 epochs left to the training loop.

    Args:
        temperature: $T > 0$.
        alpha: Weight $\alpha$ of the target part.
        beta: Weight $\beta$ of the non-target part.
        logit_standardization: z-score both logits per row first (Sun et al. 2024).
        reduction: `"mean"` or `"sum"` over samples and positions, or `"none"`.

    Example:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> distill = DKDLoss(beta=2.0)
        >>> logits, target = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([1])
        >>> teacher_logits = torch.tensor([[1.0, 3.0, 2.0]])
        >>> loss = F.cross_entropy(logits, target) + distill(logits, teacher_logits, target)
    """

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        logit_standardization: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        _check_options(temperature, alpha, beta, reduction)
        self.temperature = temperature
        self.alpha = alpha
        self.beta = beta
        self.logit_standardization = logit_standardization

    @property
    def reads_target(self) -> bool:
        """True: the target class is treated apart."""
        return True

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss; arguments, shapes and errors as in `dkd_loss`."""
        return dkd_loss(
            student_logits,
            teacher_logits,
            target,
            temperature=self.temperature,
            alpha=self.alpha,
            beta=self.beta,
            logit_standardization=self.logit_standardization,
            reduction=self.reduction,
        )


def _decouple(logits: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of (target, others), (M, 2), and within the others, (M, C - 1)."""
    log_p = log_probabilities(logits, temperature=temperature)
    log_p_others = other_classes(log_p, target).logsumexp(1, keepdim=True)
    binary = torch.cat([log_p.gather(1, target.unsqueeze(1)), log_p_others], dim=1)
    return binary, log_probabilities(other_classes(logits, target), temperature=temperature)


def other_classes(rows: Tensor, target: Tensor) -> Tensor:
    """Leave the target's column out of every row: (M, C), (M,) to (M, C - 1)."""
    others = torch.arange(rows.shape[1] - 1, device=rows.device).expand(rows.shape[0], -1)
    return rows.gather(1, others + (others >= target.unsqueeze(1)))


def _check_options(temperature: float, alpha: float, beta: float, reduction: str) -> None:
    check_number("temperature", temperature, positive=True)
    check_number("alpha", alpha)
    check_number("beta", beta)
    check_choice("reduction", reduction, REDUCTIONS)

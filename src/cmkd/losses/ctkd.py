"""Curriculum temperature: KD whose temperature learns to make the task harder, more so with every epoch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cmkd.functional.divergence import kl_of_log_probabilities
from cmkd.functional.logits import REDUCTIONS, Reduction
from cmkd.functional.precision import as_float, full_precision
from cmkd.losses.base import DistillationLoss, check_choice, check_number, flatten, reduce

# Logits further than this below the largest of their row count as this far below it, or the gradient of the
# temperature, which grows with the distance, would leave the floating range.
_FARTHEST = -1e30


def ctkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor | None = None,
    *,
    temperature: Tensor,
    alpha: float = 0.9,
    logit_standardization: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""KD at a temperature that may carry a gradient, $\alpha T^2 \, \mathrm{KL}(p_t \| p_s)$.

    $p = \mathrm{softmax}(x / T)$. What is left of CTKD, see `CTKDLoss`, without the part that learns the
    temperature: the value is that of `cmkd.losses.kd_loss`, the gradient goes to the student and to $T$. In
    float32 at every temperature, which costs 3 % of the value at T = 1000.

    Args:
        student_logits: (N, C) or (N, C, *).
        teacher_logits: Of the same shape; no gradient flows into it.
        target: (N,) or (N, *) int64; checked, not used.
        temperature: $T > 0$, a tensor with one value, on the device of the logits. Not checked, which would
            stall an accelerator.
        alpha: Weight $\alpha$ of this term.
        logit_standardization: z-score both logits per row first (Sun et al. 2024, arXiv 2403.01427).
        reduction: `"mean"` or `"sum"` over samples and positions, or `"none"`.

    Returns:
        A scalar, or (N, *) for `"none"`; float64 if an input is float64, else float32.

    Raises:
        InputError: Input or option out of its domain; see `cmkd.losses.base.flatten`.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 4.0]])
        >>> temperature = torch.tensor(4.0, requires_grad=True)
        >>> loss = ctkd_loss(student, teacher, temperature=temperature)
        >>> loss.backward()
        >>> loss.detach(), temperature.grad
        (tensor(1.5976), tensor(0.0910))
    """
    check_number("alpha", alpha)
    check_choice("reduction", reduction, REDUCTIONS)
    student, teacher, _, shape = flatten(
        student_logits, teacher_logits, target, logit_standardization=logit_standardization
    )
    with full_precision(student):
        temperature = temperature.reshape(()).to(student.dtype)
        log_p_student, log_p_teacher = (_log_probabilities(x, temperature) for x in (student, teacher))
        divergence = kl_of_log_probabilities(log_p_student, log_p_teacher)
        return reduce(alpha * temperature.square() * divergence, shape, reduction)


def _log_probabilities(rows: Tensor, temperature: Tensor) -> Tensor:
    shifted = (rows - rows.detach().amax(1, keepdim=True)).clamp(min=_FARTHEST)
    return torch.log_softmax(shifted / temperature, 1)


class CTKDLoss(DistillationLoss):
    r"""CTKD (Li et al. 2023): KD with a temperature that is learnt against the student.

    $\alpha T^2 \, \mathrm{KL}(p_t \| p_s)$ at $T = \tau_{init} + \tau_{range} \, \sigma(\theta)$ with one
    parameter $\theta$ for all samples, whose gradient is reversed and multiplied by $\lambda$, so that the
    optimizer of the student moves it towards a larger loss. The curriculum is
    $\lambda = \frac 1 2 (1 - \cos(\pi \min(e, E) / E))$ after $e$ epochs: Li et al. 2023, Curriculum
    Temperature for Knowledge Distillation (arXiv 2211.16231), eq. 3, 8 and 11, with the global temperature.
    The version in which a small network predicts a temperature for every sample is not offered.

    `set_epoch` sets $\lambda$, at any fraction of an epoch; the published code keeps it over each epoch at
    the value of its end. Before the first call, and in a loop without any, it is 1, which is no curriculum.
    As published, $\theta$ begins at 1 and so the temperature at 15.6. The distillation term alone; the
    objective is `task_weight * cross_entropy + loss`.

    Args:
        alpha: Weight $\alpha$ of the term.
        tau_init: Lower end $\tau_{init} > 0$ of the temperature.
        tau_range: Width $\tau_{range}$ of its range.
        curriculum_epochs: Epochs $E$ until the reversed gradient has its full size.
        logit_standardization: z-score both logits per row first (Sun et al. 2024; then with alpha 9).
        reduction: `"mean"` or `"sum"` over samples and positions, or `"none"`.

    Example:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> distill = CTKDLoss()
        >>> distill.set_epoch(2.5)
        >>> logits, target = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([1])
        >>> teacher_logits = torch.tensor([[1.0, 3.0, 2.0]])
        >>> task = F.cross_entropy(logits, target)
        >>> loss = distill.task_weight * task + distill(logits, teacher_logits, target)
        >>> distill.temperature
        tensor(15.6212)
    """

    reversal: Tensor

    def __init__(
        self,
        *,
        alpha: float = 0.9,
        tau_init: float = 1.0,
        tau_range: float = 20.0,
        curriculum_epochs: float = 10.0,
        logit_standardization: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        check_number("alpha", alpha)
        check_number("tau_init", tau_init, positive=True)
        check_number("tau_range", tau_range)
        check_number("curriculum_epochs", curriculum_epochs)
        self.alpha = alpha
        self.tau_init = tau_init
        self.tau_range = tau_range
        self.curriculum_epochs = curriculum_epochs
        self.logit_standardization = logit_standardization
        # One dimension, as FSDP wants it.
        self.theta = nn.Parameter(torch.ones(1))
        # A tensor, so that a compiled or captured step sees it change; no state, it follows from the epoch.
        self.register_buffer("reversal", torch.ones(()), persistent=False)

    @property
    def task_weight(self) -> float:
        """Cross-entropy weight: 1 - alpha, or 0.1 beside a larger alpha, as Sun et al. 2024 keep it."""
        return round(1.0 - self.alpha, 12) if self.alpha <= 1 else 0.1

    @property
    def temperature(self) -> Tensor:
        """The temperature as it is now, a scalar without gradient."""
        return self._temperature(self.theta.detach())

    def set_epoch(self, epoch: float) -> None:
        """Set the size of the reversed gradient to that after so many epochs."""
        share = 1.0 if epoch >= self.curriculum_epochs else max(epoch, 0.0) / self.curriculum_epochs
        self.reversal.fill_((1 - math.cos(math.pi * share)) / 2)

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss; arguments, shapes and errors as in `ctkd_loss`."""
        # The value of theta, with -reversal for a slope.
        theta = self.theta.detach() - self.reversal * (self.theta - self.theta.detach())
        return ctkd_loss(
            student_logits,
            teacher_logits,
            target,
            temperature=self._temperature(theta),
            alpha=self.alpha,
            logit_standardization=self.logit_standardization,
            reduction=self.reduction,
        )

    def _temperature(self, theta: Tensor) -> Tensor:
        return self.tau_init + self.tau_range * as_float(theta).sigmoid().squeeze()

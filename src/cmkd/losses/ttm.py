"""Transformed teacher matching: the temperature softens the teacher alone."""

from __future__ import annotations

from torch import Tensor

from cmkd.functional import log_probabilities
from cmkd.functional.divergence import kl_of_log_probabilities
from cmkd.functional.logits import REDUCTIONS, Reduction
from cmkd.functional.precision import full_precision
from cmkd.losses.base import DistillationLoss, check_choice, check_number, flatten, reduce


def ttm_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor | None = None,
    *,
    gamma: float = 0.1,
    beta: float = 45.0,
    logit_standardization: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""TTM, $\beta \, \mathrm{KL}(\hat p_t \| p_s)$ with $\hat p_t = p_t^\gamma / \sum_j p_{t,j}^\gamma$.

    $p = \mathrm{softmax}(x)$; the power transform of the teacher is a temperature $1 / \gamma$ on its side
    alone, which against KD leaves an entropy of the student as a regulariser: Zheng and Yang 2024, Knowledge
    Distillation Based on Transformed Teacher Matching (arXiv 2402.11148), eq. 7 and section 3.2. No factor
    $T^2$: the student has no temperature to make up for. The distillation term alone; the paper adds
    cross-entropy with weight 1.

    The paper tunes both numbers by network pair (appendix A.4): gamma is 0.1 for most pairs of CIFAR-100 and
    0.2 to 0.4 for others, with beta from 7 to 101. The default is that of VGG-13 to VGG-8, the example of the
    published code.

    Args:
        student_logits: (N, C) or (N, C, *).
        teacher_logits: Of the same shape; no gradient flows into it.
        target: (N,) or (N, *) int64; checked, not used.
        gamma: Exponent $0 < \gamma \le 1$, the reciprocal of the teacher's temperature.
        beta: Weight $\beta$ of the term.
        logit_standardization: z-score both logits per row first (Sun et al. 2024, arXiv 2403.01427).
        reduction: `"mean"` or `"sum"` over samples and positions, or `"none"`.

    Returns:
        A scalar, or (N, *) for `"none"`; float64 if an input is float64, else float32.

    Raises:
        InputError: Input or option out of its domain; see `cmkd.losses.base.flatten`.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 4.0]])
        >>> ttm_loss(student, teacher, gamma=0.5, beta=1.0)
        tensor(0.3278)
    """
    check_ttm_options(gamma, beta, reduction)
    student, teacher, _, shape = flatten(
        student_logits, teacher_logits, target, logit_standardization=logit_standardization
    )
    with full_precision(student):
        return reduce(beta * transformed_divergence(student, teacher, gamma), shape, reduction)


def transformed_divergence(student: Tensor, teacher: Tensor, gamma: float) -> Tensor:
    """Return the divergence of the student from the power-transformed teacher; (M, C) rows to (M,)."""
    # 1 / gamma is a temperature: a power of probabilities would underflow where logits lie far apart.
    transformed = log_probabilities(teacher, temperature=1 / gamma)
    return kl_of_log_probabilities(log_probabilities(student), transformed)


class TTMLoss(DistillationLoss):
    r"""TTM (Zheng and Yang 2024): KL divergence with the temperature on the teacher's side alone.

    Module form of `ttm_loss`, $\beta \, \mathrm{KL}(\hat p_t \| p_s)$. The distillation term alone; the
    objective is `cross_entropy + loss`.

    Args:
        gamma: Exponent $0 < \gamma \le 1$, the reciprocal of the teacher's temperature.
        beta: Weight $\beta$ of the term.
        logit_standardization: z-score both logits per row first (Sun et al. 2024).
        reduction: `"mean"` or `"sum"` over samples and positions, or `"none"`.

    Example:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> distill = TTMLoss(gamma=0.2, beta=8.0)
        >>> logits, target = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([1])
        >>> teacher_logits = torch.tensor([[1.0, 3.0, 2.0]])
        >>> loss = F.cross_entropy(logits, target) + distill(logits, teacher_logits, target)
    """

    def __init__(
        self,
        *,
        gamma: float = 0.1,
        beta: float = 45.0,
        logit_standardization: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        check_ttm_options(gamma, beta, reduction)
        self.gamma = gamma
        self.beta = beta
        self.logit_standardization = logit_standardization

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss; arguments, shapes and errors as in `ttm_loss`."""
        return ttm_loss(
            student_logits,
            teacher_logits,
            target,
            gamma=self.gamma,
            beta=self.beta,
            logit_standardization=self.logit_standardization,
            reduction=self.reduction,
        )


def check_ttm_options(gamma: float, beta: float, reduction: str) -> None:
    """Raise `InputError` unless the options of TTM and WTTM are in their domains."""
    check_number("gamma", gamma, positive=True, at_most=1.0)
    check_number("beta", beta)
    check_choice("reduction", reduction, REDUCTIONS)

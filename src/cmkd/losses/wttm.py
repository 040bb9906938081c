"""Weighted transformed teacher matching: more of it where the teacher is less certain."""

from __future__ import annotations

from torch import Tensor

from cmkd.functional import log_probabilities
from cmkd.functional.logits import Reduction
from cmkd.functional.precision import full_precision
from cmkd.losses.base import DistillationLoss, flatten, reduce
from cmkd.losses.ttm import check_ttm_options, transformed_divergence


def wttm_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor | None = None,
    *,
    gamma: float = 0.1,
    beta: float = 2.25,
    logit_standardization: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""WTTM, $\beta \, U_\gamma(p_t) \, \mathrm{KL}(\hat p_t \| p_s)$.

    TTM (`cmkd.losses.ttm_loss`) with a weight per sample: $U_\gamma(p) = \sum_j p_j^\gamma$, which is 1 for a
    one-hot and $C^{1 - \gamma}$ for the uniform distribution. Zheng and Yang 2024, Knowledge Distillation
    Based on Transformed Teacher Matching (arXiv 2402.11148), section 4. The distillation term alone; the
    paper adds cross-entropy with weight 1.

    The paper tunes both numbers by network pair (appendix A.4). The default is that of VGG-13 to VGG-8; other
    pairs of CIFAR-100 have gamma from 0.1 to 0.4 and beta mostly from 1.4 to 5; ResNet-34 to ResNet-18 on
    ImageNet has gamma 0.8 and beta 1.6.

    Args:
        student_logits: (N, C) or (N, C, *).
        teacher_logits: Of the same shape; no gradient flows into it, nor through the weight.
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
        >>> wttm_loss(student, teacher, gamma=0.5, beta=1.0)
        tensor(0.3688)
    """
    check_ttm_options(gamma, beta, reduction)
    student, teacher, _, shape = flatten(
        student_logits, teacher_logits, target, logit_standardization=logit_standardization
    )
    with full_precision(student):
        power_sum = (gamma * log_probabilities(teacher)).exp().sum(1)
        return reduce(beta * power_sum * transformed_divergence(student, teacher, gamma), shape, reduction)


class WTTMLoss(DistillationLoss):
    r"""WTTM (Zheng and Yang 2024): TTM, weighted by how uncertain the teacher is of a sample.

    Module form of `wttm_loss`, $\beta \, U_\gamma(p_t) \, \mathrm{KL}(\hat p_t \| p_s)$. The distillation
    term alone; the objective is `cross_entropy + loss`.

    Args:
        gamma: Exponent $0 < \gamma \le 1$, the reciprocal of the teacher's temperature.
        beta: Weight $\beta$ of the term.
        logit_standardization: z-score both logits per row first (Sun et al. 2024).
        reduction: `"mean"` or `"sum"` over samples and positions, or `"none"`.

    Example:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> distill = WTTMLoss(gamma=0.2, beta=2.0)
        >>> logits, target = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([1])
        >>> teacher_logits = torch.tensor([[1.0, 3.0, 2.0]])
        >>> loss = F.cross_entropy(logits, target) + distill(logits, teacher_logits, target)
    """

    def __init__(
        self,
        *,
        gamma: float = 0.1,
        beta: float = 2.25,
        logit_standardization: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        check_ttm_options(gamma, beta, reduction)
        self.gamma = gamma
        self.beta = beta
        self.logit_standardization = logit_standardization

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss; arguments, shapes and errors as in `wttm_loss`."""
        return wttm_loss(
            student_logits,
            teacher_logits,
            target,
            gamma=self.gamma,
            beta=self.beta,
            logit_standardization=self.logit_standardization,
            reduction=self.reduction,
        )

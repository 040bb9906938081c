"""DIST: match the relations between classes and within a class by Pearson correlation."""

from __future__ import annotations

from torch import Tensor

from cmkd.functional import log_probabilities, pearson
from cmkd.functional.logits import REDUCTIONS, Reduction
from cmkd.functional.precision import full_precision
from cmkd.losses.base import DistillationLoss, check_choice, check_number, flatten, reduce


def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor | None = None,
    *,
    tau: float = 4.0,
    alpha: float = 2.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    logit_standardization: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""DIST, $\alpha \tau^2 \big(\beta L_{inter} + \gamma L_{intra}\big)$.

    With $p = \mathrm{softmax}(x / \tau)$, $L_{inter}$ is the mean over samples of $1 - r$ between the rows
    of $p_s$ and $p_t$, $L_{intra}$ the mean over classes of $1 - r$ between their columns: Huang et al.
    2022, Knowledge Distillation from A Stronger Teacher (arXiv 2205.10536), eq. 8 to 10. The distillation
    term alone; the paper adds cross-entropy with weight 1. Its CIFAR-100 setting is the default here, on
    ImageNet it takes tau = 1.

    A batch of one row has no relation within a class: every column is constant, $L_{intra} = 1$ without
    gradient.

    Args:
        student_logits: (N, C) or (N, C, *); positions count as samples.
        teacher_logits: Of the same shape; no gradient flows into it.
        target: (N,) or (N, *) int64; checked, not used.
        tau: Temperature $\tau > 0$.
        alpha: Weight $\alpha$ of the whole term.
        beta: Weight $\beta$ of the inter-class part.
        gamma: Weight $\gamma$ of the intra-class part.
        logit_standardization: z-score both logits per row first (Sun et al. 2024, arXiv 2403.01427).
        reduction: `"mean"` or `"sum"` over samples and positions, or `"none"`, where every sample carries
            its own inter-class part and the common intra-class part, so that the mean of `"none"` is
            `"mean"`.

    Returns:
        A scalar, or (N, *) for `"none"`; float64 if an input is float64, else float32.

    Raises:
        InputError: Input or option out of its domain; see `cmkd.losses.base.flatten`.

    Example:
        >>> import torch
        >>> student = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
        >>> teacher = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
        >>> dist_loss(student, teacher, tau=1.0, alpha=1.0, gamma=0.0)
        tensor(0.9335)
    """
    _check_options(tau, alpha, beta, gamma, reduction)
    student, teacher, _, shape = flatten(
        student_logits, teacher_logits, target, logit_standardization=logit_standardization
    )
    with full_precision(student):
        p_student = log_probabilities(student, temperature=tau).exp()
        p_teacher = log_probabilities(teacher, temperature=tau).exp()
        inter = 1 - pearson(p_student, p_teacher)
        intra = intra_class(p_student, p_teacher)
        return reduce(alpha * tau**2 * (beta * inter + gamma * intra), shape, reduction)


def intra_class(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over classes of 1 - Pearson correlation along the batch; (M, C) rows to a scalar."""
    return (1 - pearson(student, teacher, dim=0)).mean()


class DISTLoss(DistillationLoss):
    r"""DIST (Huang et al. 2022): Pearson correlation of rows and columns.

    Module form of `dist_loss`, $\alpha \tau^2 (\beta L_{inter} + \gamma L_{intra})$. The distillation
    term alone; the objective is `cross_entropy + loss`.

    Args:
        tau: Temperature $\tau > 0$.
        alpha: Weight $\alpha$ of the whole term.
        beta: Weight $\beta$ of the inter-class part.
        gamma: Weight $\gamma$ of the intra-class part.
        logit_standardization: z-score both logits per row first (Sun et al. 2024, arXiv 2403.01427).
        reduction: `"mean"` or `"sum"` over samples and positions, or `"none"`.

    Example:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> distill = DISTLoss()
        >>> logits, target = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([1])
        >>> teacher_logits = torch.tensor([[1.0, 3.0, 2.0]])
        >>> loss = F.cross_entropy(logits, target) + distill(logits, teacher_logits, target)
    """

    def __init__(
        self,
        *,
        tau: float = 4.0,
        alpha: float = 2.0,
        beta: float = 1.0,
        gamma: float = 1.0,
        logit_standardization: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        _check_options(tau, alpha, beta, gamma, reduction)
        self.tau = tau
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma
        self.logit_standardization = logit_standardization

    @property
    def across_batch(self) -> bool:
        """True if the intra-class part has a weight: its columns run along the batch."""
        return self.gamma > 0

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss; arguments, shapes and errors as in `dist_loss`."""
        return dist_loss(
            student_logits,
            teacher_logits,
            target,
            tau=self.tau,
            alpha=self.alpha,
            beta=self.beta,
            gamma=self.gamma,
            logit_standardization=self.logit_standardization,
            reduction=self.reduction,
        )


def _check_options(tau: float, alpha: float, beta: float, gamma: float, reduction: str) -> None:
    check_number("tau", tau, positive=True)
    check_number("alpha", alpha)
    check_number("beta", beta)
    check_number("gamma", gamma)
    check_choice("reduction", reduction, REDUCTIONS)

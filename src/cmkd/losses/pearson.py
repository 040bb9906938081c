"""Pearson alone: the teacher's values, up to scale and shift, without its ranking."""

from __future__ import annotations

from torch import Tensor

from cmkd.functional import log_probabilities, pearson, standardize
from cmkd.functional.logits import REDUCTIONS, Reduction
from cmkd.functional.precision import full_precision
from cmkd.losses.base import DistillationLoss, check_choice, check_number, flatten, reduce
from cmkd.losses.cmkd_options import PearsonInput

# Not by get_args, which the compilers of older torch do not trace.
_INPUTS = ("zscore", "softmax", "logits")


def pearson_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor | None = None,
    *,
    alpha: float = 32.0,
    tau: float = 1.0,
    pearson_input: PearsonInput = "zscore",
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The Pearson term of CMKD alone, $\alpha \, (1 - r(p_s, p_t))$ per sample.

    With the softmax at a temperature for input it is the inter-class part of DIST (Huang et al. 2022, arXiv
    2205.10536, eq. 8). The default is what CMKD compares, at the weight that CMKD has as a whole, so that the
    two differ by the ranking alone. The distillation term alone, beside cross-entropy with weight 1.

    A constant row correlates 0 with anything, with zero gradient. With two classes every correlation is +1 or
    -1, with zero gradient, too.

    Args:
        student_logits: (N, C) or (N, C, *).
        teacher_logits: Of the same shape; no gradient flows into it.
        target: (N,) or (N, *) int64; checked, not used.
        alpha: Weight $\alpha$ of the term.
        tau: Temperature $\tau > 0$ of the probabilities.
        pearson_input: What is compared: `"zscore"`, $\mathrm{softmax}(z / \tau)$ of the z-scored logits $z$;
            `"softmax"`, $\mathrm{softmax}(x / \tau)$; `"logits"`, $x$ itself. The first is the logit
            standardisation that other losses have as an option of its own, but for the divisor of the
            variance, which is $C$ here and $C - 1$ there.
        reduction: `"mean"` or `"sum"` over samples and positions, or `"none"`.

    Returns:
        A scalar, or (N, *) for `"none"`; float64 if an input is float64, else float32.

    Raises:
        InputError: Input or option out of its domain; see `cmkd.losses.base.flatten`.

    Example:
        >>> import torch
        >>> student = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
        >>> teacher = torch.tensor([[2.0, 4.0, 6.0], [1.0, 2.0, 3.0]])
        >>> loss = pearson_loss(student, teacher, alpha=1.0, pearson_input="logits", reduction="none")
        >>> loss.round(decimals=4)
        tensor([0., 2.])
    """
    _check_options(alpha, tau, pearson_input, reduction)
    student, teacher, _, shape = flatten(student_logits, teacher_logits, target)
    with full_precision(student):
        if pearson_input == "zscore":
            student, teacher = standardize(student), standardize(teacher)
        if pearson_input != "logits":
            student = log_probabilities(student, temperature=tau).exp()
            teacher = log_probabilities(teacher, temperature=tau).exp()
        return reduce(alpha * (1 - pearson(student, teacher)), shape, reduction)


class PearsonLoss(DistillationLoss):
    r"""Pearson correlation alone: the first of the two terms of CMKD.

    Module form of `pearson_loss`, $\alpha \, (1 - r(p_s, p_t))$. The distillation term alone; the objective
    is `cross_entropy + loss`. There is no option `logit_standardization`: `pearson_input="zscore"` does
    that before the softmax, and a correlation of the logits themselves does not change by it.

    Args:
        alpha: Weight $\alpha$ of the term.
        tau: Temperature $\tau > 0$ of the probabilities.
        pearson_input: What is compared: `"zscore"`, `"softmax"` or `"logits"`.
        reduction: `"mean"` or `"sum"` over samples and positions, or `"none"`.

    Example:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> distill = PearsonLoss()
        >>> logits, target = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([1])
        >>> teacher_logits = torch.tensor([[1.0, 3.0, 2.0]])
        >>> loss = F.cross_entropy(logits, target) + distill(logits, teacher_logits, target)
    """

    def __init__(
        self,
        *,
        alpha: float = 32.0,
        tau: float = 1.0,
        pearson_input: PearsonInput = "zscore",
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        _check_options(alpha, tau, pearson_input, reduction)
        self.alpha = alpha
        self.tau = tau
        self.pearson_input: PearsonInput = pearson_input

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss; arguments, shapes and errors as in `pearson_loss`."""
        return pearson_loss(
            student_logits,
            teacher_logits,
            target,
            alpha=self.alpha,
            tau=self.tau,
            pearson_input=self.pearson_input,
            reduction=self.reduction,
        )


def _check_options(alpha: float, tau: float, pearson_input: str, reduction: str) -> None:
    check_number("alpha", alpha)
    check_number("tau", tau, positive=True)
    check_choice("pearson_input", pearson_input, _INPUTS)
    check_choice("reduction", reduction, REDUCTIONS)

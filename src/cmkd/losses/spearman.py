"""Spearman alone: the teacher's ranking of the classes, without its values."""

from __future__ import annotations

from torch import Tensor

from cmkd.functional import RankMethod, spearman_loss
from cmkd.functional.logits import Reduction, check_logits
from cmkd.functional.rank import check_rank_options
from cmkd.functional.tracing import is_traced
from cmkd.losses.base import DistillationLoss, check_number
from cmkd.losses.watch import SpearmanWatch


class SpearmanLoss(DistillationLoss):
    r"""Spearman correlation alone, with soft ranks: the second of the two terms of CMKD.

    $\alpha \, (1 - r(R(s), \mathrm{rank}(t)))$ with a soft rank $R$ of the student's logits and the exact,
    tie-averaged rank of the teacher's; `cmkd.functional.spearman_loss` is the function, without $\alpha$ and
    without a target, with the rank's options as `method` and `softness`. The default is the rank of CMKD, at
    the weight that CMKD has as a whole, so that the two differ by the values alone. The distillation term
    alone; the objective is `cross_entropy + loss`. There is no option `logit_standardization`: an order does
    not change by it, and a soft rank standardises its input itself.

    A constant row correlates 0 with anything, with zero gradient. With two classes every correlation is +1 or
    -1, with next to no gradient.

    Args:
        alpha: Weight $\alpha$ of the term.
        rank_method: Soft rank on the student's side: `"binned"`, `"laplace"` or `"l2"`, see
            `cmkd.functional.soft_rank`.
        rank_softness: Softness of that rank; None takes `cmkd.functional.default_softness`.
        reduction: `"mean"` or `"sum"` over samples and positions, or `"none"`.

    Example:
        >>> import torch
        >>> student = torch.tensor([[1.0, 2.0, 3.0, 9.0]])
        >>> teacher = torch.tensor([[0.1, 0.3, 0.2, 0.4]])
        >>> SpearmanLoss(alpha=1.0, rank_softness=0.001)(student, teacher).round(decimals=3)
        tensor(0.2000)
    """

    def __init__(
        self,
        *,
        alpha: float = 32.0,
        rank_method: RankMethod = "binned",
        rank_softness: float | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        check_number("alpha", alpha)
        check_rank_options(rank_method, rank_softness)
        self.alpha = alpha
        self.rank_method: RankMethod = rank_method
        self.rank_softness = rank_softness
        self.watch = SpearmanWatch()

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss.

        Args:
            student_logits: (N, C) or (N, C, *).
            teacher_logits: Of the same shape; no gradient flows into it.
            target: (N,) or (N, *) int64; checked, not used.

        Returns:
            A scalar, or (N, *) for reduction `"none"`; float64 if an input is float64, else float32.

        Raises:
            InputError: The input does not fit together; see `cmkd.functional.logits.check_logits`.

        Warns:
            UserWarning: As in `cmkd.losses.cmkd_loss`, once.
        """
        check_logits(student_logits, teacher_logits, target)
        if not is_traced():
            self.watch.look(student_logits, method=self.rank_method, softness=self.rank_softness)
        return self.alpha * spearman_loss(
            student_logits,
            teacher_logits,
            method=self.rank_method,
            softness=self.rank_softness,
            reduction=self.reduction,
        )

"""ListMLE: the likelihood of the teacher's order of the classes under the student's scores."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from cmkd.functional.logits import REDUCTIONS, Reduction
from cmkd.functional.precision import as_double, full_precision
from cmkd.functional.tracing import is_traced
from cmkd.losses.base import DistillationLoss, check_choice, check_number, flatten, reduce

# Rows that span no more than this are summed up in float64 as they are: exp(-600) is still far from the end.
_SPAN = 600.0


def listmle_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor | None = None,
    *,
    alpha: float = 0.1,
    logit_standardization: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""ListMLE, $\alpha \sum_i \big(\log \sum_{k \ge i} e^{s_{\pi(k)}} - s_{\pi(i)}\big)$.

    $\pi$ lists the classes from the teacher's first to its last: the negative logarithm of the probability
    that this order is drawn, if one class after the other is drawn by the softmax over those that are left.
    Xia et al. 2008, Listwise Approach to Learning to Rank (ICML), with the teacher's order for the ground
    truth. The sum over the C positions is theirs; its weight, and cross-entropy with weight 1 beside it, are
    ours: with 100 classes the gradients are then about as large as those of DKD and MLKD.

    Classes that the teacher ties, as half precision does to many, all have each other among those that are
    left, which makes the loss independent of the order in which they are stored; a constant teacher draws the
    student towards the uniform distribution. A perfect order does not make the loss zero: it falls for as
    long as the gaps grow, and with it the gradient.

    Args:
        student_logits: (N, C) or (N, C, *).
        teacher_logits: Of the same shape; only its order is read, and no gradient flows into it.
        target: (N,) or (N, *) int64; checked, not used.
        alpha: Weight $\alpha$ of the term.
        logit_standardization: z-score both logits per row first (Sun et al. 2024, arXiv 2403.01427), which
            bounds the gaps that can be learnt.
        reduction: `"mean"` or `"sum"` over samples and positions, or `"none"`.

    Returns:
        A scalar, or (N, *) for `"none"`; float64 if an input is float64, else float32.

    Raises:
        InputError: Input or option out of its domain; see `cmkd.losses.base.flatten`.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[3.0, 1.0, 2.0]])
        >>> listmle_loss(student, teacher, alpha=1.0)  # log 3!
        tensor(1.7918)
    """
    check_number("alpha", alpha)
    check_choice("reduction", reduction, REDUCTIONS)
    student, teacher, _, shape = flatten(
        student_logits, teacher_logits, target, logit_standardization=logit_standardization
    )
    with full_precision(student):
        ordered, order = teacher.sort(dim=1, descending=True)
        scores = as_double(student.gather(1, order))
        scores = scores - scores.detach().amax(1, keepdim=True)
        per_sample = (_log_of_the_rest(scores, ordered) - scores).sum(1)
        return reduce(alpha * per_sample.to(student.dtype), shape, reduction)


def _log_of_the_rest(scores: Tensor, ordered: Tensor) -> Tensor:
    """Log of the sum of exp over each place and all after it, and over all that are tied with it."""
    # Where it costs nothing to look (on CPU), a plain sum does, ten times as fast as torch.logcumsumexp.
    looks = scores.dtype == torch.float64 and scores.device.type == "cpu" and not is_traced()
    if looks and float(scores.detach().amin()) > -_SPAN:
        rest = scores.exp().flip(1).cumsum(1).log().flip(1)
    else:
        rest = scores.flip(1).logcumsumexp(1).flip(1)
    step = ordered[:, 1:] != ordered[:, :-1]
    if looks and bool(step.all()):
        return rest
    place = torch.arange(ordered.shape[1], device=ordered.device).expand_as(ordered)
    first = torch.where(pad(step, (1, 0), value=True), place, 0).cummax(1).values
    return rest.gather(1, first)


class ListMLELoss(DistillationLoss):
    r"""ListMLE (Xia et al. 2008): likelihood of the teacher's order of the classes.

    Module form of `listmle_loss`, $\alpha \sum_i (\log \sum_{k \ge i} e^{s_{\pi(k)}} - s_{\pi(i)})$. The
    distillation term alone; the objective is `cross_entropy + loss`.

    Args:
        alpha: Weight $\alpha$ of the term.
        logit_standardization: z-score both logits per row first (Sun et al. 2024).
        reduction: `"mean"` or `"sum"` over samples and positions, or `"none"`.

    Example:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> distill = ListMLELoss()
        >>> logits, target = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([1])
        >>> teacher_logits = torch.tensor([[1.0, 3.0, 2.0]])
        >>> loss = F.cross_entropy(logits, target) + distill(logits, teacher_logits, target)
    """

    def __init__(
        self,
        *,
        alpha: float = 0.1,
        logit_standardization: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        check_number("alpha", alpha)
        self.alpha = alpha
        self.logit_standardization = logit_standardization

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss; arguments, shapes and errors as in `listmle_loss`."""
        return listmle_loss(
            student_logits,
            teacher_logits,
            target,
            alpha=self.alpha,
            logit_standardization=self.logit_standardization,
            reduction=self.reduction,
        )

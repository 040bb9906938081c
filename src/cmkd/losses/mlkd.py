"""Multi-level logit distillation: match samples, the relations of samples and the relations of classes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from cmkd.errors import InputError
from cmkd.functional import log_probabilities
from cmkd.functional.divergence import for_temperature, kl_of_log_probabilities
from cmkd.functional.logits import REDUCTIONS, Reduction
from cmkd.functional.precision import full_precision
from cmkd.losses.base import DistillationLoss, check_choice, check_number, flatten, reduce

_TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)


def mlkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor | None = None,
    *,
    alpha: float = 0.9,
    temperatures: Sequence[float] = _TEMPERATURES,
    instance_weight: float = 1.0,
    batch_weight: float = 1.0,
    class_weight: float = 1.0,
    logit_standardization: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""MLKD, $\alpha \sum_T \big(L_{ins} + L_{batch} + L_{class}\big)$ over several temperatures $T$.

    With the rows of $P$ the probabilities $\mathrm{softmax}(x / T)$ of the $M$ samples of the batch:

    - $L_{ins}$ is the mean over samples of $T^2 \, \mathrm{KL}(p_t \| p_s)$,
    - $L_{batch} = \|P_t P_t^\top - P_s P_s^\top\|_F^2 / M$ compares how samples resemble each other,
    - $L_{class} = \|P_t^\top P_t - P_s^\top P_s\|_F^2 / C$ how classes go together.

    Jin et al. 2023, Multi-Level Logit Distillation (CVPR), with the numbers of the published code: these
    temperatures, weight 0.9 for every level, 0.1 for cross-entropy. Left out are two things of that code. It
    multiplies most of its terms by the share of samples, or of classes, below the median confidence, about
    one half: its masks come after the mean over the batch, and so select nothing. And it feeds a weakly and a
    strongly augmented view of every image, and adds up the losses of both: views are for the data to make,
    and a loss on logits takes what it is given.

    Args:
        student_logits: (N, C) or (N, C, *); positions count as samples.
        teacher_logits: Of the same shape; no gradient flows into it.
        target: (N,) or (N, *) int64; checked, not used.
        alpha: Weight $\alpha$ of the whole term.
        temperatures: All $T > 0$, at least one.
        instance_weight: Factor of $L_{ins}$.
        batch_weight: Factor of $L_{batch}$.
        class_weight: Factor of $L_{class}$.
        logit_standardization: z-score both logits per row first, for $L_{ins}$ alone, as Sun et al. 2024
            (arXiv 2403.01427) have it in their MLKD.
        reduction: `"mean"` or `"sum"` over samples and positions, or `"none"`, where every sample carries its
            own part of $L_{ins}$ and $L_{batch}$ and the common $L_{class}$, so that the mean of `"none"` is
            `"mean"`.

    Returns:
        A scalar, or (N, *) for `"none"`; float64 if an input is float64, else float32.

    Raises:
        InputError: Input or option out of its domain; see `cmkd.losses.base.flatten`.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 4.0]])
        >>> mlkd_loss(student, teacher, alpha=1.0, temperatures=[4.0])
        tensor(1.8456)
    """
    _check_options(alpha, temperatures, instance_weight, batch_weight, class_weight, reduction)
    plain = flatten(student_logits, teacher_logits, target)
    instance = plain
    if logit_standardization:
        instance = flatten(student_logits, teacher_logits, target, logit_standardization=True)
    with full_precision(plain.student):
        per_sample = plain.student.new_zeros(len(plain.student))
        for temperature in temperatures:
            log_p_student, log_p_teacher = _soften(plain.student, plain.teacher, temperature)
            if batch_weight or class_weight:
                by_sample, by_class = _relations(log_p_student.exp(), log_p_teacher.exp())
                per_sample = per_sample + batch_weight * by_sample + class_weight * by_class
            if instance_weight:
                if logit_standardization:
                    log_p_student, log_p_teacher = _soften(instance.student, instance.teacher, temperature)
                divergence = kl_of_log_probabilities(log_p_student, log_p_teacher)
                per_sample = per_sample + instance_weight * temperature**2 * divergence
        return reduce(alpha * per_sample.to(plain.student.dtype), plain.shape, reduction)


def _soften(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    one, other = (
        log_probabilities(for_temperature(x, temperature), temperature=temperature)
        for x in (student, teacher)
    )
    return one, other


def _relations(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far the relations of (M, C) probabilities differ, of the samples, (M,), and of the classes.

    Both by one matrix of M x M or of C x C, whichever is smaller, and never as the difference of two Gram
    matrices that nearly agree: with A and D the sum and the difference of the probabilities, the Gram
    matrices of the samples differ by (A D' + D A') / 2, those of the classes by (A' D + D' A) / 2.
    """
    samples, classes = student.shape
    both, gap = teacher + student, teacher - student
    if samples <= classes:
        cross = both @ gap.T
        by_sample = (cross + cross.T).square().sum(1) / 4
        by_class = ((both @ both.T) * (gap @ gap.T) + cross * cross.T).sum() / 2
    else:
        cross = both.T @ gap
        by_class = (cross + cross.T).square().sum() / 4
        of_both, of_gap = (both @ (gap.T @ gap)) * both, (gap @ (both.T @ both)) * gap
        by_sample = (of_both + of_gap + 2 * (both @ cross.T) * gap).sum(1) / 4
    return by_sample, by_class / classes


class MLKDLoss(DistillationLoss):
    r"""MLKD (Jin et al. 2023): samples, their relations and those of classes, at several temperatures.

    Module form of `mlkd_loss`, $\alpha \sum_T (L_{ins} + L_{batch} + L_{class})$. The distillation term
    alone; the objective is `task_weight * cross_entropy + loss`.

    Args:
        alpha: Weight $\alpha$ of the whole term.
        temperatures: All $T > 0$, at least one.
        instance_weight: Factor of the KL divergence per sample.
        batch_weight: Factor of the distance of the samples' relations.
        class_weight: Factor of the distance of the classes' relations.
        logit_standardization: z-score both logits per row first (Sun et al. 2024), for the divergence alone;
            then take alpha 9.
        reduction: `"mean"` or `"sum"` over samples and positions, or `"none"`.

    Example:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> distill = MLKDLoss()
        >>> logits, target = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([1])
        >>> teacher_logits = torch.tensor([[1.0, 3.0, 2.0]])
        >>> task = F.cross_entropy(logits, target)
        >>> loss = distill.task_weight * task + distill(logits, teacher_logits, target)
    """

    def __init__(
        self,
        *,
        alpha: float = 0.9,
        temperatures: Sequence[float] = _TEMPERATURES,
        instance_weight: float = 1.0,
        batch_weight: float = 1.0,
        class_weight: float = 1.0,
        logit_standardization: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        _check_options(alpha, temperatures, instance_weight, batch_weight, class_weight, reduction)
        self.alpha = alpha
        self.temperatures = list(temperatures)
        self.instance_weight = instance_weight
        self.batch_weight = batch_weight
        self.class_weight = class_weight
        self.logit_standardization = logit_standardization

    @property
    def task_weight(self) -> float:
        """Cross-entropy weight: 1 - alpha, or 0.1 beside a larger alpha, as Sun et al. 2024 keep it."""
        return round(1.0 - self.alpha, 12) if self.alpha <= 1 else 0.1

    @property
    def across_batch(self) -> bool:
        """True if the batch or the class level has a weight."""
        return self.batch_weight > 0 or self.class_weight > 0

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss; arguments, shapes and errors as in `mlkd_loss`."""
        return mlkd_loss(
            student_logits,
            teacher_logits,
            target,
            alpha=self.alpha,
            temperatures=self.temperatures,
            instance_weight=self.instance_weight,
            batch_weight=self.batch_weight,
            class_weight=self.class_weight,
            logit_standardization=self.logit_standardization,
            reduction=self.reduction,
        )


def _check_options(
    alpha: float,
    temperatures: Sequence[float],
    instance_weight: float,
    batch_weight: float,
    class_weight: float,
    reduction: str,
) -> None:
    check_number("alpha", alpha)
    try:
        count = len(temperatures)
    except TypeError:  # one number, or what can be gone through only once
        raise InputError(
            f"temperatures is {temperatures!r}: give a list of numbers, such as [4.0]."
        ) from None
    if not count:
        raise InputError("temperatures is empty: give at least one, such as [4.0].")
    for temperature in temperatures:
        check_number("temperatures", temperature, positive=True)
    check_number("instance_weight", instance_weight)
    check_number("batch_weight", batch_weight)
    check_number("class_weight", class_weight)
    check_choice("reduction", reduction, REDUCTIONS)

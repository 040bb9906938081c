"""What every loss on logits shares: the checks, the flattening of positions, the reduction, the module."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

from cmkd.errors import InputError, unknown_name
from cmkd.functional import standardize
from cmkd.functional.logits import REDUCTIONS, as_rows, check_logits, common_dtype
from cmkd.functional.logits import Reduction as Reduction
from cmkd.losses.method import DistillationMethod


class Rows(NamedTuple):
    """Checked input of a loss, one row per sample and position: M = N times the positions of a sample."""

    student: Tensor
    """(M, C), float32 or float64."""
    teacher: Tensor
    """(M, C), of the same dtype, detached."""
    target: Tensor | None
    """(M,) int64."""
    shape: tuple[int, ...]
    """(N, *): what a value per row is folded back to."""


class DistillationLoss(DistillationMethod):
    """Base of the losses on logits: `loss(student_logits, teacher_logits, target=None)`.

    The result is the distillation term alone. Training minimises
    `loss.task_weight * cross_entropy + loss(student_logits, teacher_logits, target)`.

    A subclass stores each argument of its `__init__` under the argument's own name, which puts it into
    `options`, and computes in `forward`. Nothing else is needed for `cmkd distill --loss` to find it. What a
    loss may have besides (parameters, `set_epoch`, `across_batch`) is told by `DistillationMethod`.

    Args:
        reduction: `"mean"` or `"sum"` over samples and positions, or `"none"` for shape (N, *).
    """

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_choice("reduction", reduction, REDUCTIONS)
        self.reduction: Reduction = reduction


def flatten(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor | None,
    *,
    logit_standardization: bool = False,
) -> Rows:
    """Check the input of a loss and bring it to one row per sample and position.

    Args:
        student_logits: (N, C) or (N, C, *), floating.
        teacher_logits: Of the same shape. Detached here.
        target: (N,) or (N, *), int64, or None.
        logit_standardization: Replace every row of both sides by its z-scores, before the loss puts them
            through any temperature: Sun et al. 2024, Logit Standardization in Knowledge Distillation (arXiv
            2403.01427), with the unbiased standard deviation of their code. A constant row gives zeros,
            without gradient. An option of this name belongs to every loss whose value it changes.

    Returns:
        The rows, in float32, or in float64 if either input is.

    Raises:
        InputError: Input that does not fit; see `cmkd.functional.logits.check_logits`.
    """
    check_logits(student_logits, teacher_logits, target)
    dtype = common_dtype(student_logits, teacher_logits)
    student, teacher = as_rows(student_logits.to(dtype)), as_rows(teacher_logits.detach().to(dtype))
    if logit_standardization:
        student, teacher = standardize(student, correction=1), standardize(teacher, correction=1)
    return Rows(
        student=student,
        teacher=teacher,
        target=None if target is None else target.reshape(-1),
        shape=(student_logits.shape[0], *student_logits.shape[2:]),
    )


def reduce(values: Tensor, shape: tuple[int, ...], reduction: Reduction) -> Tensor:
    """Reduce one value per row: (M,) to a scalar, or to (N, *) for `"none"`."""
    if reduction == "mean":
        return values.mean()
    return values.sum() if reduction == "sum" else values.reshape(shape)


def check_choice(name: str, value: object, known: Iterable[str]) -> None:
    """Raise `InputError` unless `value` is one of the `known` values of the option `name`."""
    known = tuple(known)
    if value not in known:
        raise unknown_name(name, str(value), known)


def check_number(name: str, value: float, *, positive: bool = False, at_most: float = math.inf) -> None:
    """Raise `InputError` unless the option is a finite number within its bounds.

    What a file or a caller gave may be of any type: text and truth values are no numbers, those of NumPy and
    tensors of one element are.
    """
    fits = not isinstance(value, bool) and (isinstance(value, (int, float)) or hasattr(value, "__float__"))
    fits = fits and value <= at_most and value < math.inf and (value > 0 if positive else value >= 0)
    if not fits:
        bounds = "positive" if positive else "at least 0"
        bounds += "" if at_most == math.inf else f" and at most {at_most:g}"
        raise InputError(f"{name} is {value!r}: it has to be a finite number, {bounds}.")


def check_count(name: str, value: int) -> None:
    """Raise `InputError` unless the option is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} is {value!r}: it has to be a whole number of at least 1.")


def check_names(name: str, value: object) -> None:
    """Raise `InputError` unless the option is a list of layers' names, or None; YAML reads 2 as a number."""
    listed = value if isinstance(value, (list, tuple)) else ()
    if value is not None and not (listed and all(isinstance(each, str) for each in listed)):
        raise InputError(
            f"{name} is {value!r}: give lists of names, such as ['layer2', 'layer3'], or None; a name that "
            "is a number needs quotes: ['2']."
        )

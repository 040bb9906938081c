"""What every loss on logits shares: the checks, the flattening of positions, the reduction, the module."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cmkd.errors import InputError, unknown_name
from cmkd.functional.logits import REDUCTIONS, as_rows, check_logits, common_dtype
from cmkd.functional.logits import Reduction as Reduction


class Rows(NamedTuple):
    """Checked input of a loss, one row per sample and position: M = N times the positions of a sample."""

    student: Tensor
    """(M, C), float32 or float64."""
    teacher: Tensor
    """(M, C), of the same dtype, detached."""
    target: Tensor | None
    """(M,) int64."""
    shape: torch.Size
    """(N, *): what a value per row is folded back to."""


class DistillationLoss(nn.Module):
    """Base of the losses on logits: `loss(student_logits, teacher_logits, target=None)`.

    The result is the distillation term alone. Training minimises
    `loss.task_weight * cross_entropy + loss(student_logits, teacher_logits, target)`.

    A subclass stores each argument of its `__init__` under the argument's own name, which puts it into
    `options`, and computes in `forward`. Nothing else is needed for `cmkd distill --loss` to find it.

    Three more things are there for the losses that need them. Parameters (`nn.Parameter`) are trained with
    the student and saved with the state of the training, and are no part of the student. `across_batch` says
    that the samples of a batch are looked at together. And a loss that changes over the run has a method
    `set_epoch(self, epoch: float) -> None`, which is called before every step with the epochs done so far:
    0.0 before the first step, 2.5 in the middle of the third epoch. It depends on the step alone, so a loss
    that derives all it needs from it is the same after a resume.

    Args:
        reduction: `"mean"` or `"sum"` over samples and positions, or `"none"` for shape (N, *).
    """

    #: Whether training has to run the teacher at all.
    reads_teacher: bool = True
    option_names: tuple[str, ...] = ("reduction",)

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_choice("reduction", reduction, REDUCTIONS)
        self.reduction: Reduction = reduction

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        own = [item.name for item in inspect.signature(cls).parameters.values() if item.kind in named]
        inherited = [name for base in cls.__mro__[1:] for name in getattr(base, "option_names", ())]
        cls.option_names = tuple(dict.fromkeys([*own, *inherited]))

    @property
    def task_weight(self) -> float:
        """Weight of the cross-entropy beside this loss in the paper's objective."""
        return 1.0

    @property
    def across_batch(self) -> bool:
        """Whether the loss of a sample depends on the other samples of its batch.

        Training in several processes then gathers logits and targets first and calls the loss with the whole
        batch; the mean of what the processes compute for themselves would be another loss. It is assumed of
        a loss that is no `DistillationLoss`.
        """
        return False

    @property
    def options(self) -> dict[str, Any]:
        """The hyper-parameters, by name: the arguments of this class and its parents, where they are kept."""
        return {name: getattr(self, name) for name in self.option_names if hasattr(self, name)}

    def extra_repr(self) -> str:
        """Show the hyper-parameters where the module is printed."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


def flatten(student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None) -> Rows:
    """Check the input of a loss and bring it to one row per sample and position.

    Args:
        student_logits: (N, C) or (N, C, *), floating.
        teacher_logits: Of the same shape. Detached here.
        target: (N,) or (N, *), int64, or None.

    Returns:
        The rows, in float32, or in float64 if either input is.

    Raises:
        InputError: Input that does not fit; see `cmkd.functional.logits.check_logits`.
    """
    check_logits(student_logits, teacher_logits, target)
    dtype = common_dtype(student_logits, teacher_logits)
    return Rows(
        student=as_rows(student_logits.to(dtype)),
        teacher=as_rows(teacher_logits.detach().to(dtype)),
        target=None if target is None else target.reshape(-1),
        shape=torch.Size((student_logits.shape[0], *student_logits.shape[2:])),
    )


def reduce(values: Tensor, shape: torch.Size, reduction: Reduction) -> Tensor:
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
    """Raise `InputError` unless the option is a finite number within its bounds."""
    low_enough = value <= at_most and value < math.inf
    if not (low_enough and (value > 0 if positive else value >= 0)):
        bounds = "positive" if positive else "at least 0"
        bounds += "" if at_most == math.inf else f" and at most {at_most:g}"
        raise InputError(f"{name} is {value}: it has to be a finite number, {bounds}.")

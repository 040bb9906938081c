"""What every loss on logits shares: the checks, the flattening of positions, the reduction, the module."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from cmkd.errors import InputError, unknown_name
from cmkd.functional.precision import float_dtype

Reduction = Literal["mean", "sum", "none"]


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

    Args:
        reduction: `"mean"` or `"sum"` over samples and positions, or `"none"` for shape (N, *).
    """

    #: Whether training has to run the teacher at all.
    reads_teacher: bool = True
    option_names: tuple[str, ...] = ("reduction",)

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_choice("reduction", reduction, get_args(Reduction))
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
    def options(self) -> dict[str, Any]:
        """The hyper-parameters, by name: the arguments of this class and its parents, where they are kept."""
        return {name: getattr(self, name) for name in self.option_names if hasattr(self, name)}

    def extra_repr(self) -> str:
        """Show the hyper-parameters where the module is printed."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


def flatten(student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None) -> Rows:
    """Check the input of a loss and bring it to one row per sample and position.

    Values (NaN, infinity, range of the target) are checked on CPU tensors only and never under
    `torch.compile`, because looking at them would stall an accelerator; there NaN comes out as NaN.

    Args:
        student_logits: (N, C) or (N, C, *), floating.
        teacher_logits: Of the same shape. Detached here.
        target: (N,) or (N, *), int64, or None.

    Returns:
        The rows, in float32, or in float64 if either input is.

    Raises:
        InputError: Anything that does not fit the above; the message names the value and the remedy.
    """
    _check_logits("student", student_logits)
    _check_logits("teacher", teacher_logits)
    _check_match(student_logits, teacher_logits)
    shape = torch.Size((student_logits.shape[0], *student_logits.shape[2:]))
    if target is not None:
        _check_target(target, shape, student_logits)
    if student_logits.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_values("student", student_logits)
        _check_values("teacher", teacher_logits)
        if target is not None:
            _check_target_range(target, student_logits.shape[1])

    dtype = torch.promote_types(float_dtype(student_logits), float_dtype(teacher_logits))
    return Rows(
        student=_rows(student_logits.to(dtype)),
        teacher=_rows(teacher_logits.detach().to(dtype)),
        target=None if target is None else target.reshape(-1),
        shape=shape,
    )


def reduce(values: Tensor, shape: torch.Size, reduction: Reduction) -> Tensor:
    """Reduce one value per row: (M,) to a scalar, or to (N, *) for `"none"`."""
    if reduction == "mean":
        return values.mean()
    if reduction == "sum":
        return values.sum()
    return values.reshape(shape)


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


def _rows(logits: Tensor) -> Tensor:
    return logits if logits.dim() == 2 else logits.movedim(1, -1).reshape(-1, logits.shape[1])


def _check_logits(who: str, logits: object) -> None:
    if not isinstance(logits, Tensor):
        raise InputError(
            f"{who} logits are a {type(logits).__name__}, not a tensor: pass the tensor of logits itself"
            " (models of some libraries return it as `output.logits`)."
        )
    if not logits.is_floating_point():
        raise InputError(
            f"{who} logits have dtype {logits.dtype}: pass floating-point scores, before any argmax."
        )
    shape = tuple(logits.shape)
    if logits.dim() < 2:
        raise InputError(
            f"{who} logits have shape {shape}: expected (N, C) or (N, C, *); add a batch dimension."
        )
    if shape[1] < 2:
        raise InputError(
            f"{who} logits have shape {shape}, so {shape[1]} class(es): distillation compares classes and"
            " needs two or more; give a binary classifier two logits."
        )
    if logits.numel() == 0:
        raise InputError(f"{who} logits have shape {shape}, which is empty: skip this batch.")


def _check_match(student: Tensor, teacher: Tensor) -> None:
    shapes = f"teacher logits {tuple(teacher.shape)}, student logits {tuple(student.shape)}"
    if student.shape[1] != teacher.shape[1]:
        raise InputError(
            f"teacher has {teacher.shape[1]} classes, student {student.shape[1]} ({shapes}): both have to"
            " score the same classes in the same order; take a teacher trained on these classes, or select"
            " its columns."
        )
    if student.shape != teacher.shape:
        raise InputError(
            f"shapes differ: {shapes}; give both networks the same batch and bring their outputs to the same"
            " resolution."
        )
    if student.device != teacher.device:
        raise InputError(
            f"teacher logits are on {teacher.device}, student logits on {student.device}: move one of them,"
            " for example with `teacher_logits.to(student_logits.device)`."
        )


def _check_target(target: object, shape: torch.Size, logits: Tensor) -> None:
    if not isinstance(target, Tensor) or target.dtype != torch.int64:
        given = f"dtype {target.dtype}" if isinstance(target, Tensor) else f"type {type(target).__name__}"
        raise InputError(
            f"target has {given}: expected class indices, a tensor of torch.int64; convert with `.long()`, or"
            " pass None where the targets are mixed or one-hot."
        )
    if target.shape != shape:
        raise InputError(
            f"target has shape {tuple(target.shape)}: logits of shape {tuple(logits.shape)} need class"
            f" indices of shape {tuple(shape)}."
        )
    if target.device != logits.device:
        raise InputError(f"target is on {target.device}, logits on {logits.device}: move one of them.")


def _check_values(who: str, logits: Tensor) -> None:
    # One read: a sum is finite unless something in it is not, or, rarely, it overflows; then look closely.
    if math.isfinite(float(logits.detach().sum(dtype=torch.float32))) or bool(logits.isfinite().all()):
        return
    bad = int((~logits.isfinite()).sum())
    raise InputError(
        f"{who} logits hold NaN or infinity in {bad} of {logits.numel()} places: lower the learning rate,"
        " check the weights and the input, and leave masked classes out instead of giving them -inf."
    )


def _check_target_range(target: Tensor, classes: int) -> None:
    low, high = (int(bound) for bound in target.aminmax())
    if low < 0 or high >= classes:
        raise InputError(
            f"target {low if low < 0 else high} is outside the {classes} classes (0 to {classes - 1}): check"
            " that the labels belong to these logits, and leave out positions that carry an ignore index."
        )

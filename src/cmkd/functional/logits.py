"""What all functions of a student's and a teacher's logits share: their checks, the mask, the rows."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from cmkd.errors import InputError
from cmkd.functional.precision import float_dtype
from cmkd.functional.tracing import is_traced

Reduction = Literal["mean", "sum", "none"]
# Not asked for where it is needed: the compilers of older torch do not trace get_args.
REDUCTIONS: tuple[str, ...] = get_args(Reduction)


def check_logits(
    student: Tensor, teacher: Tensor, target: Tensor | None = None, mask: Tensor | None = None
) -> Tensor | None:
    """Check the input of a loss on logits, and give the mask as many dimensions as the logits have.

    Values (NaN, infinity, range of the target) are checked on CPU tensors only, because looking at them would
    stall an accelerator, and not while the function is traced, see `cmkd.functional.tracing`.

    Args:
        student: (N, C) or (N, C, *), floating.
        teacher: Of the same shape.
        target: (N,) or (N, *), int64, or None.
        mask: bool, True for every valid class: (C,) for all samples, (N, C), or the shape of the logits; or
            None. NaN and infinity may stand elsewhere.

    Returns:
        The mask, of a shape that broadcasts to that of the logits, or None.

    Raises:
        InputError: Anything that does not fit the above; the message names the value and the remedy.
    """
    _check_tensor("student", student)
    _check_tensor("teacher", teacher)
    _check_match(student, teacher)
    if target is not None:
        _check_target(target, (student.shape[0], *student.shape[2:]), student)
    valid = None if mask is None else _class_mask(mask, student)
    if student.device.type == "cpu" and not is_traced():
        _check_values("student", student, valid)
        _check_values("teacher", teacher, valid)
        if target is not None:
            _check_target_range(target, student.shape[1])
    return valid


def common_dtype(student: Tensor, teacher: Tensor) -> torch.dtype:
    """Return the precision of a loss: float32, or float64 if either input is."""
    return torch.promote_types(float_dtype(student), float_dtype(teacher))


def as_rows(logits: Tensor) -> Tensor:
    """Bring (N, C, *) to (M, C), one row per sample and position; (N, C) stays as it is."""
    return logits if logits.dim() == 2 else logits.movedim(1, -1).reshape(-1, logits.shape[1])


def _check_tensor(who: str, logits: object) -> None:
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


def _check_target(target: object, shape: tuple[int, ...], logits: Tensor) -> None:
    if not isinstance(target, Tensor) or target.dtype != torch.int64:
        given = f"dtype {target.dtype}" if isinstance(target, Tensor) else f"type {type(target).__name__}"
        raise InputError(
            f"target has {given}: expected class indices, a tensor of torch.int64; convert with `.long()`, or"
            " pass None where the targets are mixed or one-hot."
        )
    if target.shape != shape:
        raise InputError(
            f"target has shape {tuple(target.shape)}: logits of shape {tuple(logits.shape)} need class"
            f" indices of shape {shape}."
        )
    if target.device != logits.device:
        raise InputError(f"target is on {target.device}, logits on {logits.device}: move one of them.")


def _check_values(who: str, logits: Tensor, mask: Tensor | None) -> None:
    # One read: a sum is finite unless something in it is not, or, rarely, it overflows; then look closely.
    if math.isfinite(float(logits.detach().sum(dtype=torch.float32))):
        return
    bad = ~logits.isfinite() if mask is None else ~logits.isfinite() & mask
    count = int(bad.sum())
    if count:
        raise InputError(
            f"{who} logits hold NaN or infinity in {count} of {logits.numel()} places: lower the learning"
            " rate, check the weights and the input, and leave classes out with a mask instead of giving them"
            " -inf."
        )


def _class_mask(mask: object, logits: Tensor) -> Tensor:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        given = f"dtype {mask.dtype}" if isinstance(mask, Tensor) else f"type {type(mask).__name__}"
        raise InputError(f"mask has {given}: pass a bool tensor that is True for every valid class.")
    shape = tuple(logits.shape)
    if tuple(mask.shape) not in {shape[1:2], shape[:2], shape}:
        raise InputError(
            f"mask has shape {tuple(mask.shape)}: logits of shape {shape} take one of shape {shape[1:2]}, for"
            f" all samples, or {shape[:2]}" + (f", or {shape}." if len(shape) > 2 else ".")
        )
    if mask.device != logits.device:
        raise InputError(f"mask is on {mask.device}, logits on {logits.device}: move one of them.")
    if mask.dim() == 1:
        mask = mask.unsqueeze(0)
    return mask.reshape(*mask.shape, *([1] * (logits.dim() - mask.dim())))


def _check_target_range(target: Tensor, classes: int) -> None:
    low, high = (int(bound) for bound in target.aminmax())
    if low < 0 or high >= classes:
        raise InputError(
            f"target {low if low < 0 else high} is outside the {classes} classes (0 to {classes - 1}): check"
            " that the labels belong to these logits, and leave out positions that carry an ignore index."
        )

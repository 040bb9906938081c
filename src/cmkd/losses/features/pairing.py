"""Which layer of the student is compared with which of the teacher."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cmkd.errors import InputError
from cmkd.losses.features.outputs import Outputs


def partners(method: str, who: str, given: list[str], own: list[str], others: list[str]) -> list[str]:
    """Return what the rule of a method pairs with the layers that are given for one network.

    Args:
        method: Name of the method.
        who: `"student"` or `"teacher"`.
        given: The layers given for it; `layer2` may stand for `layer2:preactivation`.
        own: Those that the rule names for it.
        others: Those of the other network; the two rules are paired from the last layer backwards.

    Raises:
        InputError: A layer that is given has no partner.
    """
    paired = dict(zip(reversed(own), reversed(others), strict=False))
    paired = {name.partition(":")[0]: partner for name, partner in paired.items()} | paired
    if unknown := [name for name in given if name not in paired]:
        open_side = "teacher_layers" if who == "student" else "student_layers"
        raise InputError(
            f"{who}_layers names {unknown}, and {method} by itself compares {own} of the {who} with "
            f"{others}: give {open_side}, too, one name for each."
        )
    return [paired[name] for name in given]


def check_pairs(student: Sequence[str], teacher: Sequence[str]) -> None:
    """Raise `InputError` unless there are as many layers of the one as of the other, and any at all."""
    if len(student) != len(teacher) or not student:
        raise InputError(
            f"layers of the student are {list(student)}, of the teacher {list(teacher)}: they are compared "
            "in pairs, so name as many of one as of the other, and at least one."
        )


def paired_features(
    method: str,
    student: Outputs,
    teacher: Outputs,
    student_layers: list[str] | None,
    teacher_layers: list[str] | None,
) -> list[tuple[Tensor, Tensor]]:
    """Return the features that are compared, after a look at their shapes.

    Args:
        method: Name of the method.
        student: What the student gave.
        teacher: What the teacher gave.
        student_layers: Which of the student's layers, in which one may come twice; None takes all.
        teacher_layers: Which of the teacher's, paired with them.

    Raises:
        InputError: Layers are missing, or not paired, or of other images or another device.
    """
    if not (isinstance(student, Outputs) and isinstance(teacher, Outputs)):
        raise InputError(
            f"{method} compares features: call it with the Outputs of a Capture of each network, not with "
            f"{type(student).__name__} and {type(teacher).__name__}."
        )
    of_student = _names("student", student, student_layers)
    of_teacher = _names("teacher", teacher, teacher_layers)
    check_pairs(of_student, of_teacher)
    pairs = [
        (student.features[one], teacher.features[other])
        for one, other in zip(of_student, of_teacher, strict=True)
    ]
    for name, (one, other) in zip(of_student, pairs, strict=True):
        if len(one) != len(other) or one.device != other.device or one.numel() == 0:
            raise InputError(
                f"features of {name!r}: student {tuple(one.shape)} on {one.device}, teacher "
                f"{tuple(other.shape)} on {other.device}; both have to see the same images on one device."
            )
    return pairs


def common_dtype(pairs: Sequence[tuple[Tensor, Tensor]]) -> torch.dtype:
    """Return the precision to compute in: float32, or float64 where a feature is."""
    is_double = any(x.dtype == torch.float64 for pair in pairs for x in pair)
    return torch.float64 if is_double else torch.float32


def _names(who: str, outputs: Outputs, layers: list[str] | None) -> list[str]:
    if layers is None:
        return list(outputs.features)
    if missing := [name for name in layers if name not in outputs.features]:
        raise InputError(
            f"the outputs of the {who} hold {list(outputs.features)}, but not {missing}: give Capture all "
            f"layers of the loss, {layers}."
        )
    return layers

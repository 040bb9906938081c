"""Teachers that give the log-probabilities of their likeliest classes alone."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from cmkd.errors import InputError
from cmkd.functional import log_probabilities
from cmkd.functional.precision import as_float, full_precision
from cmkd.functional.tracing import is_traced

Tail = Literal["bucket", "drop"]
TAILS: tuple[str, ...] = get_args(Tail)

# The least share of all that is left over: float32 cannot tell less from 0 beside 1.
_LEAST_REST = 2.0**-23
# By how much log-probabilities in half precision may add up to more than 1.
_ROUNDING = 0.02


class TopLogits(NamedTuple):
    """What a teacher says of its K likeliest classes, in the place of all its V logits."""

    values: Tensor
    """(..., K), floating: log-probabilities; with tail `"drop"` logits do as well."""
    indices: Tensor
    """(..., K) int64: the class that each belongs to. No class twice."""


def top_logits(logits: Tensor, k: int) -> TopLogits:
    """Keep the log-probabilities of the K largest logits, as inference servers report them.

    Args:
        logits: (..., V), floating.
        k: $K$, from 1 to V.

    Returns:
        Values and indices, (..., K), the largest first; float64 if the logits are, else float32.

    Raises:
        InputError: K is out of range.

    Example:
        >>> import torch
        >>> top = top_logits(torch.tensor([[1.0, 3.0, 2.0]]), 2)
        >>> top.indices, top.values
        (tensor([[1, 2]]), tensor([[-0.4076, -1.4076]]))
    """
    if not 1 <= k <= logits.shape[-1]:
        raise InputError(f"k is {k}: the logits have {logits.shape[-1]} classes, so give 1 to that many.")
    with full_precision(logits):
        values, indices = as_float(logits).topk(k, dim=-1)
        return TopLogits(values - as_float(logits).logsumexp(-1, keepdim=True), indices)


def check_top(student: Tensor, top: TopLogits, tail: Tail) -> None:
    """Raise `InputError` unless values and indices fit the student's logits (..., V)."""
    values, indices = top
    if values.shape != indices.shape or values.shape[:-1] != student.shape[:-1]:
        raise InputError(
            f"the teacher's values have shape {tuple(values.shape)}, its indices {tuple(indices.shape)}, the "
            f"student's logits {tuple(student.shape)}: both have to be {tuple(student.shape[:-1])} and one "
            "dimension more, the K classes."
        )
    if not values.is_floating_point() or indices.dtype != torch.int64:
        raise InputError(
            f"the teacher's values are {values.dtype}, its indices {indices.dtype}: they have to be floating "
            "and torch.int64."
        )
    count, classes = values.shape[-1], student.shape[-1]
    least = 2 if tail == "drop" else 1
    if not least <= count <= classes:
        raise InputError(
            f"the teacher gives {count} of {classes} classes: tail {tail!r} takes {least} to {classes}, each "
            "class once."
        )
    if {values.device, indices.device} != {student.device}:
        raise InputError(
            f"the teacher's values are on {values.device}, its indices on {indices.device}, the student's "
            f"logits on {student.device}: move them."
        )


def narrow(
    student: Tensor, top: TopLogits, target: Tensor | None, tail: Tail
) -> tuple[Tensor, Tensor, Tensor | None]:
    r"""Bring rows of all V classes to those that the teacher gives, and the rest as one class if wanted.

    With `"bucket"` both sides become log-probabilities of K + 1 classes, the last of which is all others
    together, $\log(1 - \sum_k p_k)$; with K = V there are no others, and the classes are the V. With `"drop"`
    they are the K given ones, as if there were no other.

    Args:
        student: Logits, (M, V).
        top: Of the teacher, (M, K).
        target: (M,) int64, or None.
        tail: `"bucket"` or `"drop"`.

    Returns:
        Student and teacher, (M, K) or (M, K + 1), and the place of the target among these classes: None
        with `"drop"`, where it need not be among them.

    Raises:
        InputError: Indices out of range or given twice, values that are no log-probabilities where they have
            to be. Looked at on CPU alone.
    """
    values, indices = as_float(top.values.detach()), top.indices
    if student.device.type == "cpu" and not is_traced():
        _check_values(values, indices, student.shape[1], tail)
    if tail == "drop":
        return student.gather(1, indices), values, None
    with full_precision(student):
        log_p = log_probabilities(student)
        mine, theirs = log_p.gather(1, indices), values
        if indices.shape[1] < student.shape[1]:
            # Summed over the others themselves: 1 - sum would be rounding where they are unlikely.
            others = log_p.scatter(1, indices, -torch.inf).logsumexp(1, keepdim=True)
            rest = (-torch.expm1(values.logsumexp(1, keepdim=True))).clamp(min=_LEAST_REST)
            mine, theirs = torch.cat([mine, others], 1), torch.cat([values, rest.log()], 1)
    if target is None:
        return mine, theirs, None
    found = indices == target.unsqueeze(1)
    place = torch.where(found.any(1), found.long().argmax(1), indices.shape[1])
    return mine, theirs, place


def _check_values(values: Tensor, indices: Tensor, classes: int, tail: Tail) -> None:
    low, high = (int(bound) for bound in indices.aminmax())
    if low < 0 or high >= classes:
        raise InputError(
            f"the teacher's index {low if low < 0 else high} is outside the student's {classes} classes: "
            "leave positions out whose indices are padding."
        )
    ordered = indices.sort(1).values
    if bool((ordered[:, 1:] == ordered[:, :-1]).any()):
        raise InputError("the teacher's indices name a class twice in one row: give each class once.")
    if tail == "bucket":
        mass = float(values.logsumexp(1).max().exp())
        if mass > 1 + _ROUNDING:
            raise InputError(
                f"the probabilities of the teacher's classes add up to {mass:.4g}: tail 'bucket' needs "
                "log-probabilities over all classes (`top_logits` makes them); for logits take tail 'drop'."
            )

"""The CMKD and the Spearman loss of every row with its gradient, in one or two Triton launches."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cmkd.kernels.triton_launch import (
    MOST_IN_REGISTERS,
    MOST_KNOTS,
    Call,
    launch_tiled,
    launch_whole,
    on_device_of,
)

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class RowLoss(NamedTuple):
    """The loss of M rows, its terms, and its gradient. Float32, detached."""

    combined: Tensor
    """(M,), the loss of every row, with all factors."""
    total: Tensor
    """Scalar, the sum of `combined`, in a fixed order."""
    pearson: Tensor | None
    """(M,), P = 1 - r of the values; None where they were left out."""
    spearman: Tensor
    """(M,), S = 1 - r of the ranks."""
    weight: Tensor | None
    """(M,), the weight w of S; None where the values were left out."""
    hardness: Tensor | None
    """(M,), entropy of the teacher over log C; None where the weight was given."""
    grad: Tensor
    """(M, C), derivative of `combined` by the student's row; bfloat16 if the student is."""


def supported(student: Tensor, teacher: Tensor, *, knots: int, mask: Tensor | None = None) -> bool:
    """Tell whether `cmkd_rows` and `spearman_rows` take this input.

    Args:
        student: Logits, (M, C).
        teacher: Logits, (M, C).
        knots: Number of knots K of the student's binned rank.
        mask: None, or valid classes, (C,) or (M, C).

    Returns:
        Whether it is on a CUDA device of compute capability 7 or more (or Triton interprets), with a dtype,
        layout and number of knots that the kernels know, and Triton is installed. Says nothing about whether
        the kernels work there: see `cmkd.kernels.triton_check.self_check`.
    """
    rows = (student, teacher)
    if not all(x.dim() == 2 and x.dtype in _DTYPES and x.stride(1) == 1 for x in rows):
        return False
    if student.shape != teacher.shape or student.device != teacher.device or student.numel() == 0:
        return False
    if student.shape[1] < 2 or not 2 <= knots <= MOST_KNOTS:
        return False
    if mask is not None and (mask.dtype != torch.bool or mask.device != student.device):
        return False
    if mask is not None and tuple(mask.shape) not in (student.shape[1:], student.shape):
        return False
    return _has_triton() and _can_run(student.device)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


@cache
def _can_run(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (7, 0)
    # Triton's interpreter, which has to be chosen before Triton is imported, works on CPU tensors.
    return device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"


def cmkd_rows(
    student: Tensor,
    teacher: Tensor,
    *,
    knots: int,
    tau: float = 1.0,
    mask: Tensor | None = None,
    weight: Tensor | Literal["batch_rank", "none"] = "batch_rank",
    value_weight: Tensor | None = None,
    flip: bool = False,
    convex: bool = True,
    pearson_weight: float = 1.0,
    spearman_weight: float = 1.0,
    scale: float = 1.0,
    rank: Callable[[Tensor], Tensor] | None = None,
) -> RowLoss:
    r"""Compute $c_i = s\,[\lambda_P v_i P_i + \lambda_S w_i S_i]$ of every row and its gradient.

    P compares $\mathrm{softmax}(z / \tau)$ of the z-scored rows, S the binned rank of the student with the
    tie-averaged rank of the teacher. That rank is exact for up to 1024 classes. Beyond, it is read off a
    histogram of 2048 bins that were laid out by a first one. Simulated in float32 for 21,841 classes, its
    correlation with the exact rank is 1 - 1.4e-7 for normal, Student-t (2 and 3 degrees of freedom) and
    half-tied rows, 1 - 4e-7 for Cauchy rows (1 - 2e-5 for 128,000 classes), and 1 - 2e-4 for noise beside one
    value a million times as large.

    A row that is constant or holds NaN or infinity on a valid place, on either side, has P = S = 1 and zero
    gradient. Rows of the same input give the same bits in every run.

    Args:
        student: Logits, (M, C), row strided, float32, bfloat16 or float16; see `supported`.
        teacher: Logits, (M, C), likewise.
        knots: Number of knots K of the binned rank; for a softness b it is ceil(2 / b) + 1.
        tau: Temperature.
        mask: Bool, True for valid classes, (C,) or (M, C). None for all.
        weight: w, (M,); or computed from the teacher's entropy H / log C, as it is (`"none"`) or by its
            rank in the batch (`"batch_rank"`).
        value_weight: v, (M,). None for 1 - w, or for 1 unless `convex`.
        flip: Take 1 - w for w.
        convex: See `value_weight`.
        pearson_weight: $\lambda_P$.
        spearman_weight: $\lambda_S$.
        scale: s.
        rank: Returns the tie-averaged ranks, from 1, of a vector; needed for `"batch_rank"` of more than
            8192 rows, which no kernel ranks.

    Returns:
        `RowLoss`. Two launches; one, and one for the total, where the weight is given and C is up to 1024.
    """
    return _rows(
        student,
        teacher,
        mask,
        knots,
        weight,
        value_weight,
        inverse_tau=1.0 / tau,
        pearson_weight=scale * pearson_weight,
        spearman_weight=scale * spearman_weight,
        flags={"PEARSON": True, "FLIP": flip, "CONVEX": convex},
        rank=rank,
    )


def spearman_rows(
    student: Tensor, teacher: Tensor, *, knots: int, mask: Tensor | None = None, scale: float = 1.0
) -> RowLoss:
    """Compute scale * S of every row and its gradient; see `cmkd_rows`.

    One launch, and one for the total, for up to 1024 classes; beyond, two.
    """
    return _rows(
        student,
        teacher,
        mask,
        knots,
        None,
        None,
        inverse_tau=1.0,
        pearson_weight=0.0,
        spearman_weight=scale,
        flags={"PEARSON": False, "FLIP": False, "CONVEX": False},
    )


def _rows(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    knots: int,
    weight: Tensor | str | None,
    value_weight: Tensor | None,
    *,
    inverse_tau: float,
    pearson_weight: float,
    spearman_weight: float,
    flags: dict[str, bool],
    rank: Callable[[Tensor], Tensor] | None = None,
) -> RowLoss:
    samples, classes = student.shape
    measured = isinstance(weight, str)
    grad_dtype = torch.bfloat16 if student.dtype == torch.bfloat16 else torch.float32
    outputs = student.new_empty((5, samples), dtype=torch.float32)
    combined, pearson, spearman, used_weight, hardness = outputs.unbind(0)
    call = Call(
        student,
        teacher,
        mask,
        _as_weight(value_weight) if value_weight is not None else None,
        outputs=outputs,
        grad=student.new_empty((samples, classes), dtype=grad_dtype),
        total=student.new_empty((), dtype=torch.float32),
        arrived=student.new_empty((), dtype=torch.int32),
        factors=(float(inverse_tau), float(pearson_weight), float(spearman_weight)),
        knots=knots,
        rank=rank,
    )
    launch = launch_whole if classes <= MOST_IN_REGISTERS else launch_tiled
    with on_device_of(student):
        launch(call, _as_weight(weight) if isinstance(weight, Tensor) else weight, flags)
    return RowLoss(
        combined=combined,
        total=call.total,
        pearson=pearson if flags["PEARSON"] else None,
        spearman=spearman,
        weight=used_weight if flags["PEARSON"] else None,
        hardness=hardness if measured else None,
        grad=call.grad,
    )


def _as_weight(weight: Tensor) -> Tensor:
    return weight.detach().to(torch.float32).contiguous()

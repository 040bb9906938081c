"""One check per process that the Triton kernels compute on this hardware what they should."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Protocol

import torch
from torch import Tensor

from cmkd.kernels.triton_launch import MOST_IN_REGISTERS, whole_layout
from cmkd.kernels.triton_rows import RowLoss, cmkd_rows

# The ranks of long rows are read off a histogram; a gradient in bfloat16 is right to 1 / 256.
_VALUE_TOLERANCE = 1e-3
_GRADIENT_TOLERANCE = 1e-2

_passed: dict[tuple[object, ...], bool] = {}


class Reference(Protocol):
    """The same loss in pure torch, with the options that `cmkd_rows` has if none are given."""

    def __call__(self, student: Tensor, teacher: Tensor, *, knots: int, mask: Tensor | None) -> RowLoss:
        """Return the loss of every row, its terms and its gradient; the other fields are not read."""


def self_check(student: Tensor, *, knots: int, masked: bool, reference: Reference) -> bool:
    """Compare the kernels for such input with pure torch, once per process, device and kernel.

    The kernels are compiled by whichever Triton is installed, for whichever device there is, and not all of
    these can be tried beforehand. A few fixed rows are run, with ties, a constant row and a large one. Where
    the result is wrong, or anything raises, it warns and the caller should use pure torch.

    Args:
        student: Logits that `supported` takes, (M, C); only their device, dtype and C are used.
        knots: Number of knots of the binned rank.
        masked: Whether there will be a mask.
        reference: Computes in pure torch what `cmkd_rows` should return.

    Returns:
        Whether the kernels may be used. While a CUDA graph is captured, when nothing can be compared, this
        is False unless the check was passed before.

    Warns:
        UserWarning: The check was not passed; names the device, Triton's version and the largest difference.
    """
    classes = student.shape[1]
    block = whole_layout(classes, knots)["BLOCK"] if classes <= MOST_IN_REGISTERS else 0
    key = (student.device, student.dtype, block, knots, masked)
    if key not in _passed:
        if student.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return False
        _passed[key] = _passes(student, knots, masked, reference)
    return _passed[key]


def _passes(like: Tensor, knots: int, masked: bool, reference: Reference) -> bool:
    try:
        with _ordinary_mode():
            difference = _difference(like, knots, masked, reference)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a compiler or a driver may come up with
        _warn(like, f"raise {type(error).__name__}: {error}")
        return False
    if not difference <= 1:
        _warn(like, f"differ from pure torch by {difference:.3g} times the tolerance")
        return False
    return True


@contextmanager
def _ordinary_mode() -> Iterator[None]:
    """Leave the modes in which pure torch may raise where the kernels would not.

    Nothing has a gradient in inference mode, and older torch has no sum along a row that is deterministic.
    """
    strict = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        if strict:
            torch.use_deterministic_algorithms(False)
        with torch.inference_mode(False):
            yield
    finally:
        if strict:
            torch.use_deterministic_algorithms(True, warn_only=warns)


def _difference(like: Tensor, knots: int, masked: bool, reference: Reference) -> float:
    """Return the largest difference between kernels and reference as a multiple of the tolerance."""
    student, teacher, mask = (x.to(like.device) for x in _rows(like.shape[1], like.dtype))
    got = cmkd_rows(student, teacher, knots=knots, mask=mask if masked else None)
    wanted = reference(student, teacher, knots=knots, mask=mask if masked else None)
    assert got.pearson is not None
    assert wanted.pearson is not None
    pairs = (
        (got.combined, wanted.combined),
        (got.pearson, wanted.pearson),
        (got.spearman, wanted.spearman),
        (got.total, wanted.combined.sum()),
    )
    value = max(float((a.float() - b.float()).abs().max()) for a, b in pairs)
    gradient = wanted.grad.float()
    size = gradient.abs().amax(1, keepdim=True).clamp(min=1e-12)
    slope = float(((got.grad.float() - gradient).abs() / size).max())
    # max() would drop a NaN that comes second.
    return max(value / _VALUE_TOLERANCE, slope / _GRADIENT_TOLERANCE) if slope == slope else slope


def _rows(classes: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return student, teacher and mask of five fixed rows, on the CPU whatever the default device is."""
    generator = torch.Generator("cpu").manual_seed(0)
    student, noise = (torch.randn(5, classes, generator=generator, device="cpu") for _ in "st")
    # Each row sharper than the one before, so that no rounding can swap their weights.
    sharpness = torch.arange(1.0, 6.0, device="cpu").unsqueeze(1)
    teacher = torch.exp(0.3 * sharpness * noise) + 0.3 * student
    student[1] = student[1].round()
    teacher[1] = (4 * teacher[1]).round()
    student[2] = 0.5
    student[3] *= 1e4
    mask = torch.rand(5, classes, generator=generator, device="cpu") < 0.8
    mask[:, :2] = True
    return student.to(dtype), teacher.to(dtype), mask


def _warn(like: Tensor, problem: str) -> None:
    name = torch.cuda.get_device_name(like.device) if like.device.type == "cuda" else str(like.device)
    warnings.warn(
        f"the Triton kernels of cmkd {problem} (on {name}, Triton {version('triton')}, {like.shape[1]}"
        " classes), so pure torch is used there in this process: right, but slower. Please report this line.",
        UserWarning,
        stacklevel=2,
    )

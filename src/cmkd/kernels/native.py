"""The C kernels on CPU tensors: what cmkd.functional defines, row by row, several times as fast.

Chosen by `usable`; everything else is left to the caller.
"""

from __future__ import annotations

import ctypes
import logging
from typing import NamedTuple

import torch
from torch import Tensor

from cmkd.kernels import switch
from cmkd.kernels.compiling import CannotCompile, load_library

_log = logging.getLogger(__name__)

METHODS = {"laplace": 0, "binned": 1, "l2": 2}
_DTYPES = {torch.float32: 0, torch.bfloat16: 1}
# Below this number of values a second thread costs more than it saves. And no more threads than three for ten
# rows: each works in up to 92 bytes per class, which keeps all of them within seven times the logits.
VALUES_PER_THREAD = 16_384


class _View(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("sample", ctypes.c_int64),
        ("cls", ctypes.c_int64),
        ("position", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
    )


class _Job(ctypes.Structure):
    _fields_ = (
        ("samples", ctypes.c_int64),
        ("positions", ctypes.c_int64),
        ("classes", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("method", ctypes.c_int32),
        ("knots", ctypes.c_int32),
        ("raw", ctypes.c_int32),
        ("softness", ctypes.c_double),
        ("tau", ctypes.c_double),
        ("mask", _View),
        ("x", _View),
        ("y", _View),
        ("out", _View),
        ("value_weight", ctypes.c_void_p),
        ("rank_weight", ctypes.c_void_p),
        ("first", ctypes.c_void_p),
        ("second", ctypes.c_void_p),
    )


class RankOptions(NamedTuple):
    """Which soft rank, in the terms of `cmkd.functional.soft_rank`."""

    method: str
    softness: float
    knots: int = 0
    """Of `"binned"`, in place of the softness."""
    raw: bool = False
    """Of `"l2"`: rank the values themselves, `softness` being the strength."""


class Terms(NamedTuple):
    """Both terms, (N, *), and the gradient of their weighted sum, of the student's shape and layout."""

    pearson: Tensor | None
    spearman: Tensor | None
    grad: Tensor | None


class _State:
    """What is known of the compiled library in this process."""

    library: ctypes.CDLL | None = None
    #: Why there is none; empty as long as nobody has asked.
    reason: str = ""


def usable(*tensors: Tensor, mask: Tensor | None = None) -> bool:
    """Whether the kernels exist here and can read these tensors: float32 or bfloat16, and a mask, on CPU.

    The first call compiles them, which takes a second once per machine.
    """
    if mask is not None and not (_is_plain(mask) and mask.dtype == torch.bool):
        return False
    return all(_is_plain(tensor) and tensor.dtype in _DTYPES for tensor in tensors) and available()


def available() -> bool:
    """Whether this process has the compiled kernels, without regard to any tensor."""
    if not switch.enabled():
        return False
    if _State.library is None and not _State.reason:
        try:
            _State.library = load_library()
        except (CannotCompile, OSError) as error:
            _State.reason = str(error)
            _log.info("CPU losses run in plain PyTorch: %s", error)
    return _State.library is not None


def describe() -> str:
    """Say in a few words what computes on CPU, for logs and environment files."""
    if available() and _State.library is not None:
        threaded = ctypes.c_int.in_dll(_State.library, "cmkd_openmp").value
        return "compiled C" + ("" if threaded else ", one thread")
    return f"plain PyTorch ({_State.reason or 'kernels are switched off'})"


def exact_rank(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Tie-averaged ranks of (N, C) or (N, C, *) along dimension 1, float32."""
    out = _empty_like(x, torch.float32)
    _call("cmkd_exact_rank", x, mask, out=out)
    return out


def soft_rank(x: Tensor, rank: RankOptions, mask: Tensor | None = None) -> Tensor:
    """Soft ranks of (N, C) or (N, C, *) along dimension 1, float32."""
    out = _empty_like(x, torch.float32)
    _call("cmkd_soft_rank", x, mask, out=out, rank=rank)
    return out


def soft_rank_backward(x: Tensor, slope: Tensor, rank: RankOptions, mask: Tensor | None = None) -> Tensor:
    """Gradient with respect to `x`, given that with respect to its soft ranks; in the type of `x`."""
    out = _empty_like(x, x.dtype)
    _call("cmkd_soft_rank", x, mask, y=slope, out=out, rank=rank)
    return out


def entropy(x: Tensor, tau: float, mask: Tensor | None = None) -> Tensor:
    """Entropy of softmax(z / tau) over the logarithm of the valid classes, (N, *)."""
    out = x.new_empty(_rows_shape(x), dtype=torch.float32)
    _call("cmkd_entropy", x, mask, first=out, tau=tau)
    return out


def terms(
    student: Tensor,
    teacher: Tensor,
    rank: RankOptions,
    *,
    tau: float,
    value_weight: Tensor | None,
    rank_weight: Tensor | None,
    mask: Tensor | None = None,
    gradient: bool,
) -> Terms:
    """Pearson and Spearman term per row, and the gradient of their sum with these weights.

    Args:
        student: (N, C) or (N, C, *).
        teacher: Of the same shape.
        rank: Soft rank of the student.
        tau: Temperature of the Pearson term.
        value_weight: (N, *) float32; None leaves the Pearson term out.
        rank_weight: (N, *) float32; None leaves the Spearman term out.
        mask: Valid classes, bool, broadcastable to the student.
        gradient: Whether to compute the gradient.
    """
    shape = _rows_shape(student)
    pearson = student.new_empty(shape, dtype=torch.float32) if value_weight is not None else None
    spearman = student.new_empty(shape, dtype=torch.float32) if rank_weight is not None else None
    grad = _empty_like(student, student.dtype) if gradient else None
    _call(
        "cmkd_terms",
        student,
        mask,
        y=teacher,
        out=grad,
        rank=rank,
        tau=tau,
        value_weight=value_weight,
        rank_weight=rank_weight,
        first=pearson,
        second=spearman,
    )
    return Terms(pearson, spearman, grad)


def _is_plain(tensor: Tensor) -> bool:
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and not tensor.is_neg()
        and not tensor.is_nested
    )


def _rows_shape(x: Tensor) -> tuple[int, ...]:
    return (x.shape[0], *x.shape[2:])


def _call(
    function: str,
    x: Tensor,
    mask: Tensor | None,
    *,
    y: Tensor | None = None,
    out: Tensor | None = None,
    rank: RankOptions | None = None,
    tau: float = 1.0,
    value_weight: Tensor | None = None,
    rank_weight: Tensor | None = None,
    first: Tensor | None = None,
    second: Tensor | None = None,
) -> None:
    samples, classes = x.shape[:2]
    rows = x.numel() // max(classes, 1)
    if x.numel() == 0:
        return
    flags = None if mask is None else mask.expand(x.shape)
    # Held here until the call is over, since a view is only an address.
    views = [_View() if tensor is None else _as_view(tensor) for tensor in (flags, x, y, out)]
    weights = [None if w is None else w.contiguous() for w in (value_weight, rank_weight)]
    job = _Job(
        samples=samples,
        positions=rows // samples,
        classes=classes,
        threads=max(1, min(torch.get_num_threads(), x.numel() // VALUES_PER_THREAD, rows * 3 // 10)),
        tau=tau,
        mask=views[0],
        x=views[1],
        y=views[2],
        out=views[3],
        value_weight=_address(weights[0]),
        rank_weight=_address(weights[1]),
        first=_address(first),
        second=_address(second),
    )
    if rank is not None:
        job.method, job.knots, job.raw = METHODS[rank.method], rank.knots, rank.raw
        job.softness = rank.softness
    assert _State.library is not None
    if getattr(_State.library, function)(ctypes.byref(job)):
        raise MemoryError(f"no memory left for the working space of {job.threads} rows of {classes} values")


def _as_view(tensor: Tensor) -> _View:
    """Describe (N, C) or (N, C, *) as (samples, classes, positions), or a copy of it if that takes one."""
    flat = tensor.unsqueeze(2) if tensor.dim() == 2 else tensor.flatten(2)
    view = _View(flat.data_ptr(), *flat.stride(), _DTYPES.get(flat.dtype, 0))
    view.keep_alive = flat
    return view


def _empty_like(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return an empty tensor of the shape and, if the kernels can write to it, the layout of `x`."""
    out = torch.empty_like(x, dtype=dtype)
    return out if _as_view(out).data == out.data_ptr() else x.new_empty(x.shape, dtype=dtype)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()

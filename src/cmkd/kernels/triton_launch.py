"""How the Triton kernels are launched: shapes of their programs, working memory, order of arguments."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

# A whole row is held in registers up to here; beyond, it is read in tiles.
MOST_IN_REGISTERS = 1024
# Beyond, the registers for one sum per knot run out. 65 knots are a softness of 1/32.
MOST_KNOTS = 65
# Every row is compared with the whole batch, and one program adds up the loss; beyond, torch does both.
MOST_RANKED = 8192
# Bins of each of the two levels that rank a teacher's row of more than 1024 classes.
FINE = 2048


class Call(NamedTuple):
    """What the launches of one call share."""

    student: Tensor
    teacher: Tensor
    mask: Tensor | None
    value_weight: Tensor | None
    outputs: Tensor
    """(5, M): loss, P, S, weight, hardness."""
    grad: Tensor
    total: Tensor
    arrived: Tensor
    """int32: how many programs are done, so that the last of them can add up the loss."""
    factors: tuple[float, float, float]
    """1 / tau, and the factors of P and S."""
    knots: int
    rank: Callable[[Tensor], Tensor] | None
    """Ranks a vector, for batches too large for a kernel to rank."""

    @property
    def hardness(self) -> Tensor:
        """(M,)."""
        return self.outputs[4]


def launch_whole(call: Call, weight: Tensor | str | None, flags: dict[str, bool]) -> None:
    """Compute rows of up to 1024 classes; `weight` is as in `cmkd_rows`, None without the values."""
    from cmkd.kernels.triton_whole import teacher_hardness, whole_rows

    samples, classes = call.student.shape
    mask, mask_stride, masked = _mask_arguments(call)
    layout = whole_layout(classes, call.knots)
    grid = (-(-samples // layout["ROWS"]),)
    is_measured = isinstance(weight, str)
    if is_measured:
        teacher_hardness[grid](
            call.teacher,
            mask,
            call.hardness,
            call.arrived,
            samples,
            classes,
            call.teacher.stride(0),
            mask_stride,
            call.factors[0],
            ROWS=layout["ROWS"],
            BLOCK=layout["BLOCK"],
            MASK=masked,
            num_warps=layout["num_warps"],
            enable_fp_fusion=True,
        )
    # One program would be adding up a larger batch for long; and without the launch above nothing has set the
    # counter of finished programs to 0.
    has_total = is_measured and samples <= MOST_RANKED
    weights, is_ranked = _weights(call, weight)
    whole_rows[grid](
        call.student,
        call.teacher,
        mask,
        weights,
        weights if call.value_weight is None else call.value_weight,
        call.outputs.new_empty(samples * 2 * layout["RAMPS"]),
        call.outputs,
        call.grad,
        call.total,
        call.arrived,
        samples,
        classes,
        call.student.stride(0),
        call.teacher.stride(0),
        mask_stride,
        *call.factors,
        MASK=masked,
        RANKED=is_ranked,
        GIVEN=call.value_weight is not None,
        TOTAL=has_total,
        enable_fp_fusion=True,
        **layout,
        **flags,
    )
    if not has_total:
        torch.sum(call.outputs[0], 0, out=call.total)


def launch_tiled(call: Call, weight: Tensor | str | None, flags: dict[str, bool]) -> None:
    """Compute longer rows; arguments as in `launch_whole`."""
    from cmkd.kernels.triton_tables import FACTS, row_tables
    from cmkd.kernels.triton_tiled import tiled_rows

    samples, classes = call.student.shape
    mask, mask_stride, masked = _mask_arguments(call)
    layout = tiled_layout(call.knots)
    sizes = (2 * int(FACTS), 2 * layout["RAMPS"], FINE, FINE)
    scratch = call.outputs.new_empty(samples * sum(sizes))
    tables = scratch.split([samples * size for size in sizes])
    row_tables[(samples, 2)](
        call.student,
        call.teacher,
        mask,
        *tables,
        call.hardness,
        call.arrived,
        classes,
        call.student.stride(0),
        call.teacher.stride(0),
        mask_stride,
        call.factors[0],
        MASK=masked,
        enable_fp_fusion=True,
        **layout,
    )
    weights, is_ranked = _weights(call, weight)
    tiled_rows[(samples,)](
        call.student,
        call.teacher,
        mask,
        weights,
        weights if call.value_weight is None else call.value_weight,
        *tables,
        call.outputs,
        call.grad,
        call.total,
        call.arrived,
        samples,
        classes,
        call.student.stride(0),
        call.teacher.stride(0),
        mask_stride,
        *call.factors,
        MASK=masked,
        RANKED=is_ranked,
        GIVEN=call.value_weight is not None,
        enable_fp_fusion=True,
        **layout,
        **flags,
    )


def whole_layout(classes: int, knots: int) -> dict[str, Any]:
    """Return how `whole_rows` spreads rows of up to 1024 classes over threads."""
    block = max(16, _power_of_two(classes))
    layout = {
        "KNOTS": knots,
        "RAMPS": _power_of_two(knots - 1),
        "ROWS": max(1, 64 // block),
        "BLOCK": block,
        "CHUNK": min(block, 32),
        # Counting is quadratic: at 1024 classes it takes some six times as many instructions as the sort.
        "SORT": block > 256,
        "num_warps": min(max(1, block // 64), 8),
    }
    if layout["num_warps"] == 8:
        # Left alone, one program would take all registers of a multiprocessor, and nothing hide its waits.
        layout["maxnreg"] = 128
    return layout


def tiled_layout(knots: int) -> dict[str, Any]:
    """Return how the kernels for longer rows spread a tile over threads."""
    ramps = _power_of_two(knots - 1)
    warps = 16 if ramps <= 32 else 8
    return {
        "KNOTS": knots,
        "RAMPS": ramps,
        "FINE": FINE,
        "DEPTH": 4,
        "LANES": 32 * warps,
        "num_warps": warps,
    }


def _weights(call: Call, weight: Tensor | str | None) -> tuple[Tensor, bool]:
    """Return what the kernel reads weights from, and whether it has to rank it within the batch."""
    if isinstance(weight, Tensor):
        return weight, False
    if weight == "batch_rank" and len(call.hardness) > MOST_RANKED:
        assert call.rank is not None
        return (call.rank(call.hardness) - 0.5) / len(call.hardness), False
    return call.hardness, weight == "batch_rank"


def _mask_arguments(call: Call) -> tuple[Tensor, int, bool]:
    """Return pointer, row stride and presence of the mask; the pointer is never read if there is none."""
    if call.mask is None:
        return call.student, 0, False
    return call.mask, call.mask.stride(0) if call.mask.dim() == 2 else 0, True


def _power_of_two(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()


def on_device_of(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which Triton launches on the device of `x`."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext()

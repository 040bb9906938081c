"""First Triton kernel for rows of more than 1024 classes: what has to be known of a row beforehand."""

# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from cmkd.kernels.triton_maths import exponentials, place_of, ramp, relative_entropy, scaling

# What `row_tables` leaves about each row of student and teacher for `tiled_rows`: one number each.
TOP, SCALE, MEAN, REACH, ALIVE, COUNT, TOTAL_E, FACTS = (tl.constexpr(i) for i in range(8))


@triton.jit
def tile_at(start, C, DEPTH: tl.constexpr, LANES: tl.constexpr):
    """Return the columns of a tile, (DEPTH, LANES), and which of them exist."""
    column = start + tl.arange(0, DEPTH)[:, None] * LANES + tl.arange(0, LANES)[None, :]
    return column, column < C


@triton.jit
def valid_in(mask, column, inside, MASK: tl.constexpr):
    """Return which of the columns `inside` hold valid classes."""
    if MASK:
        inside = inside & (tl.load(mask + column, mask=inside, other=0) != 0)
    return inside


@triton.jit
def read(row, column, valid):
    """Return values in float32, 0 where not valid."""
    return tl.load(row + column, mask=valid, other=0.0).to(tl.float32)


@triton.jit
def z_of(x, top, scale, mean, reach, live):
    """Return z-scores, 0 where not live."""
    return tl.where(live, ((x * 0.5 - top) * scale - mean) * reach, 0.0)


@triton.jit
def _measure(row, mask, facts, C, DEPTH: tl.constexpr, LANES: tl.constexpr, MASK: tl.constexpr):
    """Store and return what standardises a row as in `cmkd.functional.standardize`.

    A dead row, constant or not finite, ends before its first column: z is 0 from there on.
    """
    tops = tl.full((DEPTH, LANES), -float("inf"), tl.float32)
    bottoms = tl.full((DEPTH, LANES), float("inf"), tl.float32)
    members = tl.zeros((DEPTH, LANES), tl.float32)
    broken = tl.zeros((DEPTH, LANES), tl.int32)
    for start in range(0, C, DEPTH * LANES):
        column, inside = tile_at(start, C, DEPTH, LANES)
        valid = valid_in(mask, column, inside, MASK)
        x = read(row, column, valid)
        tops = tl.maximum(tops, tl.where(valid, x, -float("inf")))
        bottoms = tl.minimum(bottoms, tl.where(valid, x, float("inf")))
        members += valid.to(tl.float32)
        broken = tl.where(tl.abs(x) < float("inf"), broken, 1)
    top = tl.max(tl.max(tops, 0), 0) * 0.5
    varies, scale = scaling(top, tl.min(tl.min(bottoms, 0), 0) * 0.5)
    alive = varies & (tl.max(tl.max(broken, 0), 0) == 0)
    end = tl.where(alive, C, 0)
    top = tl.where(alive, top, 0.0)
    count = tl.maximum(tl.sum(tl.sum(members, 0), 0), 1.0)

    sums = tl.zeros((DEPTH, LANES), tl.float32)
    for start in range(0, C, DEPTH * LANES):
        column, inside = tile_at(start, C, DEPTH, LANES)
        live = valid_in(mask, column, inside, MASK) & (column < end)
        sums += tl.where(live, (read(row, column, live) * 0.5 - top) * scale, 0.0)
    mean = tl.sum(tl.sum(sums, 0), 0) / count

    squares = tl.zeros((DEPTH, LANES), tl.float32)
    for start in range(0, C, DEPTH * LANES):
        column, inside = tile_at(start, C, DEPTH, LANES)
        live = valid_in(mask, column, inside, MASK) & (column < end)
        centred = z_of(read(row, column, live), top, scale, mean, 1.0, live)
        squares += centred * centred
    variance = tl.sum(tl.sum(squares, 0), 0) / count
    reach = tl.rsqrt(tl.where(alive, variance, 1.0))

    tl.store(facts + TOP, top)
    tl.store(facts + SCALE, scale)
    tl.store(facts + MEAN, mean)
    tl.store(facts + REACH, reach)
    tl.store(facts + ALIVE, tl.where(alive, 1.0, 0.0))
    tl.store(facts + COUNT, count)
    return top, scale, mean, reach, end, count


@triton.jit
def level_of(place, below, count, FINE: tl.constexpr):
    """Return the bin of the finer histogram for a place in the coarser one.

    `below` is the inclusive cumulative histogram of the first level; read linearly it spreads the values
    nearly evenly over the second, however they are distributed.
    """
    coarse = tl.minimum(tl.maximum(place.to(tl.int32), 0), FINE - 1)
    upto = tl.load(below + coarse)
    under = tl.load(below + coarse - 1, mask=coarse > 0, other=0.0)
    rank = under + (place - coarse.to(tl.float32)) * (upto - under)
    return tl.minimum(tl.maximum((rank * (FINE / count)).to(tl.int32), 0), FINE - 1)


@triton.jit
def fine_place(z, FINE: tl.constexpr):
    """Return the place of z among the bins of the first level, in [0, FINE)."""
    return (z / (1.0 + tl.abs(z)) + 1.0) * (FINE * 0.5)


@triton.jit
def row_tables(
    student,
    teacher,
    mask,
    facts,
    beyond,
    below,
    ranks,
    hardness,
    arrived,
    C,
    student_stride,
    teacher_stride,
    mask_stride,
    inverse_tau,
    KNOTS: tl.constexpr,
    RAMPS: tl.constexpr,
    FINE: tl.constexpr,
    DEPTH: tl.constexpr,
    LANES: tl.constexpr,
    MASK: tl.constexpr,
):
    """Program (i, 0) measures row i of the teacher and ranks it, program (i, 1) that of the student.

    Writes `facts` (M, 2, FACTS), the hardness (M,), the student's counts beyond the knots `beyond`
    (M, 2, RAMPS), and the teacher's levels `below` and `ranks` (M, FINE); sets `arrived` to 0.
    """
    row = tl.program_id(0).to(tl.int64)
    mask += row * mask_stride
    if tl.program_id(1) == 0:
        teacher += row * teacher_stride
        facts += row * 2 * FACTS
        below += row * FINE
        top, scale, mean, reach, end, count = _measure(teacher, mask, facts, C, DEPTH, LANES, MASK)
        largest = tl.where(end > 0, -mean * reach, 0.0)
        totals = tl.zeros((DEPTH, LANES), tl.float32)
        moments = tl.zeros((DEPTH, LANES), tl.float32)
        bins = tl.zeros((FINE,), tl.int32)
        outside = tl.zeros((DEPTH, LANES), tl.int32)
        for start in range(0, C, DEPTH * LANES):
            column, inside = tile_at(start, C, DEPTH, LANES)
            valid = valid_in(mask, column, inside, MASK)
            live = valid & (column < end)
            z = z_of(read(teacher, column, live), top, scale, mean, reach, live)
            e, logarithm = exponentials(z, largest, inverse_tau, valid)
            totals += e
            moments += e * logarithm
            coarse = tl.minimum(tl.maximum(fine_place(z, FINE).to(tl.int32), 0), FINE - 1)
            # Places outside the row are put into the first bin, and taken out of it below.
            coarse = tl.where(valid, coarse, 0)
            outside += 1 - valid.to(tl.int32)
            bins += tl.histogram(tl.reshape(coarse, (DEPTH * LANES,)), FINE)
        total = tl.sum(tl.sum(totals, 0), 0)
        moment = tl.sum(tl.sum(moments, 0), 0)
        tl.store(facts + TOTAL_E, total)
        tl.store(hardness + row, relative_entropy(tl.maximum(total, 1e-30), moment, count))
        bin_of = tl.arange(0, FINE)
        extra = tl.where(bin_of == 0, tl.sum(tl.sum(outside, 0), 0), 0)
        tl.store(below + bin_of, tl.cumsum(bins - extra, 0).to(tl.float32))
        tl.debug_barrier()

        bins = tl.zeros((FINE,), tl.int32)
        for start in range(0, C, DEPTH * LANES):
            column, inside = tile_at(start, C, DEPTH, LANES)
            valid = valid_in(mask, column, inside, MASK)
            live = valid & (column < end)
            z = z_of(read(teacher, column, live), top, scale, mean, reach, live)
            level = tl.where(valid, level_of(fine_place(z, FINE), below, count, FINE), 0)
            bins += tl.histogram(tl.reshape(level, (DEPTH * LANES,)), FINE)
        bins -= extra
        rank = tl.cumsum(bins, 0).to(tl.float32) - 0.5 * bins.to(tl.float32) + 0.5
        tl.store(ranks + row * FINE + bin_of, rank)
        if row == 0:
            tl.store(arrived, 0)
    else:
        student += row * student_stride
        facts += (row * 2 + 1) * FACTS
        top, scale, mean, reach, end, count = _measure(student, mask, facts, C, DEPTH, LANES, MASK)
        largest = tl.where(end > 0, -mean * reach, 0.0)
        totals = tl.zeros((DEPTH, LANES), tl.float32)
        counts = tl.zeros((RAMPS, LANES), tl.float32)
        knot = tl.arange(0, RAMPS)[:, None, None].to(tl.float32)
        for start in range(0, C, DEPTH * LANES):
            column, inside = tile_at(start, C, DEPTH, LANES)
            valid = valid_in(mask, column, inside, MASK)
            live = valid & (column < end)
            z = z_of(read(student, column, live), top, scale, mean, reach, live)
            e, _ = exponentials(z, largest, inverse_tau, valid)
            totals += e
            place, _ = place_of(z, KNOTS)
            counts += tl.sum(ramp(tl.where(valid, place, 0.0)[None, :, :] - knot), 1)
        tl.store(facts + TOTAL_E, tl.sum(tl.sum(totals, 0), 0))
        tl.store(beyond + row * 2 * RAMPS + tl.arange(0, RAMPS), tl.sum(counts, 1))

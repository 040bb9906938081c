"""Triton kernels for rows of up to 1024 classes: one program holds a few whole rows in registers."""

# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from cmkd.kernels.triton_maths import (
    around,
    beyond,
    correlation,
    counts,
    exponentials,
    interpolated_rank,
    is_curved,
    is_finite,
    place_of,
    relative_entropy,
    share_of_batch,
    sorted_row,
    standardized,
    sum_when_last,
)


@triton.jit(do_not_specialize=["M"])
def teacher_hardness(
    teacher,
    mask,
    hardness,
    arrived,
    M,
    C,
    teacher_stride,
    mask_stride,
    inverse_tau,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    MASK: tl.constexpr,
):
    """Write the hardness of every row, and set `arrived` to 0 for the kernel that follows."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    valid = (row < M) & (column < C)
    if MASK:
        valid = valid & (tl.load(mask + row * mask_stride + column, mask=valid, other=0) != 0)
    count = tl.maximum(tl.sum(valid.to(tl.float32), 1, keep_dims=True), 1.0)
    x = tl.load(teacher + row * teacher_stride + column, mask=valid, other=0.0).to(tl.float32)
    x = tl.where(is_finite(x, valid), x, 0.0)
    z, _, largest, _, _ = standardized(x, valid, count)
    e, logarithm = exponentials(z, largest, inverse_tau, valid)
    total = tl.maximum(tl.sum(e, 1, keep_dims=True), 1e-30)
    moment = tl.sum(e * logarithm, 1, keep_dims=True)
    tl.store(hardness + row, relative_entropy(total, moment, count), mask=row < M)
    if tl.program_id(0) == 0:
        tl.store(arrived, 0)


@triton.jit(do_not_specialize=["M"])
def whole_rows(
    student,
    teacher,
    mask,
    weights,
    value_weights,
    beyond_knots,
    outputs,
    gradient,
    total,
    arrived,
    M,
    C,
    student_stride,
    teacher_stride,
    mask_stride,
    inverse_tau,
    pearson_weight,
    spearman_weight,
    KNOTS: tl.constexpr,
    RAMPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    SORT: tl.constexpr,
    MASK: tl.constexpr,
    PEARSON: tl.constexpr,
    RANKED: tl.constexpr,
    FLIP: tl.constexpr,
    CONVEX: tl.constexpr,
    GIVEN: tl.constexpr,
    TOTAL: tl.constexpr,
):
    """Write loss, terms, weight, and gradient of every row.

    `outputs` is (4, M) in that order, `beyond_knots` (M, 2, RAMPS) is working memory. `weights` holds the
    weight of the Spearman term, or with RANKED the hardness that it follows from, and with GIVEN
    `value_weights` that of the Pearson term; neither is read without PEARSON.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    in_batch = row < M
    column = tl.broadcast_to(tl.arange(0, BLOCK)[None, :], (ROWS, BLOCK))
    valid = in_batch & (column < C)
    if MASK:
        valid = valid & (tl.load(mask + row * mask_stride + column, mask=valid, other=0) != 0)
    members = tl.sum(valid.to(tl.float32), 1, keep_dims=True)
    count = tl.maximum(members, 1.0)

    y = tl.load(teacher + row * teacher_stride + column, mask=valid, other=0.0).to(tl.float32)
    finite = is_finite(y, valid)
    y = tl.where(finite, y, 0.0)
    if SORT:
        # Nothing below depends on the order of the classes, so the row stays sorted until it is written.
        y, column, rank = sorted_row(y, valid, column)
        valid = tl.broadcast_to(tl.arange(0, BLOCK)[None, :].to(tl.float32), (ROWS, BLOCK)) < members
        y = tl.where(valid, y, 0.0)
    else:
        less = tl.zeros((ROWS, BLOCK), tl.float32)
        upto = tl.zeros((ROWS, BLOCK), tl.float32)
        for start in range(0, C, CHUNK):
            other = start + tl.arange(0, CHUNK)[None, :]
            inside = in_batch & (other < C)
            if MASK:
                inside = inside & (tl.load(mask + row * mask_stride + other, mask=inside, other=0) != 0)
            others = tl.load(teacher + row * teacher_stride + other, mask=inside, other=0.0).to(tl.float32)
            fewer, up = counts(y, tl.where(finite, others, 0.0), inside)
            less += fewer
            upto += up
        rank = 0.5 * (less + upto + 1.0)
    x = tl.load(student + row * student_stride + column, mask=valid, other=0.0).to(tl.float32)
    finite = finite & is_finite(x, valid)
    x = tl.where(finite, x, 0.0)

    z, slope, largest, varies, reach = standardized(x, valid, count)
    z_t, _, largest_t, varies_t, reach_t = standardized(y, valid, count)
    alive = finite & varies & varies_t

    place, left = place_of(z, KNOTS)
    place = tl.where(valid, place, 0.0)
    # In memory for `around`. Each row is of one program alone, so a barrier within the program is enough.
    counts_beyond = beyond_knots + tl.minimum(row, M - 1) * 2 * RAMPS
    knot = tl.arange(0, RAMPS)[None, :]
    tl.store(counts_beyond + knot, beyond(place, valid.to(tl.float32), RAMPS), mask=in_batch)
    tl.debug_barrier()
    before, here, after = around(counts_beyond, left, count, KNOTS)
    soft = tl.where(valid, interpolated_rank(place, left, before, here, after, count), 0.0)
    hard = tl.where(valid, (rank - 0.5 * (count + 1.0)) / count, 0.0)
    soft_soft = tl.sum(soft * soft, 1, keep_dims=True)
    hard_hard = tl.sum(hard * hard, 1, keep_dims=True)
    soft_hard = tl.sum(soft * hard, 1, keep_dims=True)
    rank_r, pull, drag = correlation(soft_soft, hard_hard, soft_hard, alive)

    # What a knot gives to the values beyond it, it takes from those around it: see `binned_rank`.
    g = drag * soft - pull * hard
    g_beyond = counts_beyond + RAMPS
    tl.store(g_beyond + knot, beyond(place, g, RAMPS), mask=in_batch)
    tl.debug_barrier()
    g_before, _, g_after = around(g_beyond, left, 0.0, KNOTS)
    by_place = 0.5 * (g * (before - after) - (g_before - g_after)) / count
    away = 1.0 + tl.abs(z)
    rank_slope = by_place * ((KNOTS - 1) * 0.5) / (away * away)

    if PEARSON:
        if RANKED:
            mine = tl.load(weights + row, mask=in_batch, other=0.0)
            w = share_of_batch(weights, mine, M, 256)
        else:
            w = tl.load(weights + row, mask=in_batch, other=0.0)
        if FLIP:
            w = 1.0 - w
        share = tl.full((ROWS, 1), 1.0, tl.float32)
        if GIVEN:
            share = tl.load(value_weights + row, mask=in_batch, other=0.0)
        elif CONVEX:
            share = 1.0 - w
        value_weight = pearson_weight * share
        e, _ = exponentials(z, largest, inverse_tau, valid)
        e_t, _ = exponentials(z_t, largest_t, inverse_tau, valid)
        a = tl.where(valid, e - tl.sum(e, 1, keep_dims=True) / count, 0.0)
        b = tl.where(valid, e_t - tl.sum(e_t, 1, keep_dims=True) / count, 0.0)
        curved = alive & is_curved(reach, inverse_tau) & is_curved(reach_t, inverse_tau)
        aa = tl.sum(a * a, 1, keep_dims=True)
        bb = tl.sum(b * b, 1, keep_dims=True)
        value_r, pull, drag = correlation(aa, bb, tl.sum(a * b, 1, keep_dims=True), curved)
        value_slope = e * inverse_tau * (drag * a - pull * b)
        by_z = spearman_weight * w * rank_slope + value_weight * value_slope
        loss = spearman_weight * w * (1.0 - rank_r) + value_weight * (1.0 - value_r)
        tl.store(outputs + M + row, 1.0 - value_r, mask=in_batch)
        tl.store(outputs + 3 * M + row, w, mask=in_batch)
    else:
        by_z = spearman_weight * rank_slope
        loss = spearman_weight * (1.0 - rank_r)
    tl.store(outputs + row, loss, mask=in_batch)
    tl.store(outputs + 2 * M + row, 1.0 - rank_r, mask=in_batch)

    by_z = tl.where(valid, by_z, 0.0)
    mean = tl.sum(by_z, 1, keep_dims=True) / count
    along = tl.sum(by_z * z, 1, keep_dims=True) / count
    by_x = tl.where(valid & alive, (by_z - mean - along * z) * slope, 0.0)
    everywhere = in_batch & (column < C)
    tl.store(gradient + row * C + column, by_x.to(gradient.dtype.element_ty), mask=everywhere)
    if TOTAL:
        sum_when_last(outputs, total, arrived, tl.num_programs(0), M, 1024)

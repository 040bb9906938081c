"""Second Triton kernel for rows of more than 1024 classes: one program walks over one row in tiles."""

# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from cmkd.kernels.triton_maths import (
    around,
    correlation,
    exponentials,
    interpolated_rank,
    is_curved,
    place_of,
    ramp,
    share_of_batch,
    sum_when_last,
)
from cmkd.kernels.triton_tables import (
    ALIVE,
    COUNT,
    FACTS,
    MEAN,
    REACH,
    SCALE,
    TOP,
    TOTAL_E,
    fine_place,
    level_of,
    read,
    tile_at,
    valid_in,
    z_of,
)


@triton.jit
def _both_z(student, teacher, facts, column, valid, end):
    """Return the z-scores of both rows on a tile; 0 from column `end` on."""
    live = valid & (column < end)
    other = facts + FACTS
    z = z_of(
        read(student, column, live),
        tl.load(other + TOP),
        tl.load(other + SCALE),
        tl.load(other + MEAN),
        tl.load(other + REACH),
        live,
    )
    z_t = z_of(
        read(teacher, column, live),
        tl.load(facts + TOP),
        tl.load(facts + SCALE),
        tl.load(facts + MEAN),
        tl.load(facts + REACH),
        live,
    )
    return z, z_t


@triton.jit
def _both_ranks(z, z_t, valid, beyond, below, ranks, count, KNOTS: tl.constexpr, FINE: tl.constexpr):
    """Return place and knot of the student, its histogram around there, and both centred ranks over C."""
    place, left = place_of(z, KNOTS)
    before, here, after = around(beyond, left, count, KNOTS)
    soft = interpolated_rank(place, left, before, here, after, count)
    level = level_of(fine_place(z_t, FINE), below, count, FINE)
    hard = (tl.load(ranks + level) - 0.5 * (count + 1.0)) / count
    place = tl.where(valid, place, 0.0)
    return place, left, before - after, tl.where(valid, soft, 0.0), tl.where(valid, hard, 0.0)


@triton.jit
def _both_values(z, z_t, facts, valid, end, inverse_tau):
    """Return the student's exponentials, and those of both centred."""
    count = tl.load(facts + COUNT)
    top = tl.where(end == 0, 0.0, -tl.load(facts + FACTS + MEAN) * tl.load(facts + FACTS + REACH))
    top_t = tl.where(end == 0, 0.0, -tl.load(facts + MEAN) * tl.load(facts + REACH))
    e, _ = exponentials(z, top, inverse_tau, valid)
    e_t, _ = exponentials(z_t, top_t, inverse_tau, valid)
    mean = tl.load(facts + FACTS + TOTAL_E) / count
    mean_t = tl.load(facts + TOTAL_E) / count
    return e, tl.where(valid, e - mean, 0.0), tl.where(valid, e_t - mean_t, 0.0)


@triton.jit(do_not_specialize=["M"])
def tiled_rows(
    student,
    teacher,
    mask,
    weights,
    value_weights,
    facts,
    beyond,
    below,
    ranks,
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
    FINE: tl.constexpr,
    DEPTH: tl.constexpr,
    LANES: tl.constexpr,
    MASK: tl.constexpr,
    PEARSON: tl.constexpr,
    RANKED: tl.constexpr,
    FLIP: tl.constexpr,
    CONVEX: tl.constexpr,
    GIVEN: tl.constexpr,
):
    """Write loss, terms, weight, and gradient of one row; arguments as in `whole_rows`, tables as above."""
    row = tl.program_id(0).to(tl.int64)
    student += row * student_stride
    teacher += row * teacher_stride
    mask += row * mask_stride
    gradient += row * C
    facts += row * 2 * FACTS
    beyond += row * 2 * RAMPS
    below += row * FINE
    ranks += row * FINE
    count = tl.load(facts + COUNT)
    alive = tl.load(facts + ALIVE) * tl.load(facts + FACTS + ALIVE) > 0.0
    end = tl.where(alive, C, 0)

    aa = tl.zeros((DEPTH, LANES), tl.float32)
    bb = tl.zeros((DEPTH, LANES), tl.float32)
    ab = tl.zeros((DEPTH, LANES), tl.float32)
    soft_soft = tl.zeros((DEPTH, LANES), tl.float32)
    hard_hard = tl.zeros((DEPTH, LANES), tl.float32)
    soft_hard = tl.zeros((DEPTH, LANES), tl.float32)
    soft_beyond = tl.zeros((RAMPS, LANES), tl.float32)
    hard_beyond = tl.zeros((RAMPS, LANES), tl.float32)
    knot = tl.arange(0, RAMPS)[:, None, None].to(tl.float32)
    for start in range(0, C, DEPTH * LANES):
        column, inside = tile_at(start, C, DEPTH, LANES)
        valid = valid_in(mask, column, inside, MASK)
        z, z_t = _both_z(student, teacher, facts, column, valid, end)
        place, _, _, soft, hard = _both_ranks(z, z_t, valid, beyond, below, ranks, count, KNOTS, FINE)
        soft_soft += soft * soft
        hard_hard += hard * hard
        soft_hard += soft * hard
        # The gradient of the correlation is linear in the two ranks, so both are binned before its factors
        # are known.
        share = ramp(place[None, :, :] - knot)
        soft_beyond += tl.sum(share * soft[None, :, :], 1)
        hard_beyond += tl.sum(share * hard[None, :, :], 1)
        if PEARSON:
            _, a, b = _both_values(z, z_t, facts, valid, end, inverse_tau)
            aa += a * a
            bb += b * b
            ab += a * b
    soft_soft_ = tl.sum(tl.sum(soft_soft, 0), 0)
    hard_hard_ = tl.sum(tl.sum(hard_hard, 0), 0)
    rank_r, pull, drag = correlation(soft_soft_, hard_hard_, tl.sum(tl.sum(soft_hard, 0), 0), alive)
    g_beyond = beyond + RAMPS
    tl.store(g_beyond + tl.arange(0, RAMPS), drag * tl.sum(soft_beyond, 1) - pull * tl.sum(hard_beyond, 1))
    tl.debug_barrier()

    if PEARSON:
        if RANKED:
            mine = tl.full((1, 1), 1.0, tl.float32) * tl.load(weights + row)
            w = tl.sum(tl.sum(share_of_batch(weights, mine, M, 1024), 0), 0)
        else:
            w = tl.load(weights + row)
        if FLIP:
            w = 1.0 - w
        share = w * 0.0 + 1.0
        if GIVEN:
            share = tl.load(value_weights + row)
        elif CONVEX:
            share = 1.0 - w
        value_weight = pearson_weight * share
        curved = alive & is_curved(tl.load(facts + REACH), inverse_tau)
        curved = curved & is_curved(tl.load(facts + FACTS + REACH), inverse_tau)
        value_r, value_pull, value_drag = correlation(
            tl.sum(tl.sum(aa, 0), 0), tl.sum(tl.sum(bb, 0), 0), tl.sum(tl.sum(ab, 0), 0), curved
        )
        rank_weight = spearman_weight * w
        loss = rank_weight * (1.0 - rank_r) + value_weight * (1.0 - value_r)
        value_pull *= value_weight * inverse_tau
        value_drag *= value_weight * inverse_tau
        tl.store(outputs + M + row, 1.0 - value_r)
        tl.store(outputs + 3 * M + row, w)
    else:
        rank_weight = spearman_weight
        value_pull = 0.0
        value_drag = 0.0
        loss = rank_weight * (1.0 - rank_r)
    tl.store(outputs + row, loss)
    tl.store(outputs + 2 * M + row, 1.0 - rank_r)

    # The first round adds up what the projection of the standardisation takes off, the second writes.
    sums = tl.zeros((DEPTH, LANES), tl.float32)
    moments = tl.zeros((DEPTH, LANES), tl.float32)
    mean = 0.0
    along = 0.0
    slope = 0.5 * tl.load(facts + FACTS + SCALE) * tl.load(facts + FACTS + REACH)
    for writing in tl.static_range(2):
        for start in range(0, C, DEPTH * LANES):
            column, inside = tile_at(start, C, DEPTH, LANES)
            valid = valid_in(mask, column, inside, MASK)
            z, z_t = _both_z(student, teacher, facts, column, valid, end)
            place, left, nearby, soft, hard = _both_ranks(
                z, z_t, valid, beyond, below, ranks, count, KNOTS, FINE
            )
            g_before, _, g_after = around(g_beyond, left, 0.0, KNOTS)
            by_place = 0.5 * ((drag * soft - pull * hard) * nearby - (g_before - g_after)) / count
            away = 1.0 + tl.abs(z)
            by_z = rank_weight * by_place * ((KNOTS - 1) * 0.5) / (away * away)
            if PEARSON:
                e, a, b = _both_values(z, z_t, facts, valid, end, inverse_tau)
                by_z += e * (value_drag * a - value_pull * b)
            by_z = tl.where(valid & (column < end), by_z, 0.0)
            if writing:
                by_x = tl.where(valid & (column < end), (by_z - mean - along * z) * slope, 0.0)
                tl.store(gradient + column, by_x.to(gradient.dtype.element_ty), mask=inside)
            else:
                sums += by_z
                moments += by_z * z
        if not writing:
            mean = tl.sum(tl.sum(sums, 0), 0) / count
            along = tl.sum(tl.sum(moments, 0), 0) / count
    sum_when_last(outputs, total, arrived, tl.num_programs(0), M, 1024)

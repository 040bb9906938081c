"""Pieces of the Triton kernels that work on one tile of rows, (ROWS, BLOCK), wholly in registers."""

# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

# Bounds of `cmkd.functional.standardize`: what is below 16 units in the last place is rounding, and what is
# below 1024 times the smallest normal number has a reciprocal too large for a gradient.
NOISE = tl.constexpr(16 * 1.1920928955078125e-07)
TINY = tl.constexpr(1024 * 1.1754943508222875e-38)
COLUMN_BITS = tl.constexpr(10)
COLUMN_MASK = tl.constexpr(1023)


@triton.jit
def is_finite(x, valid):
    """Return which rows hold neither NaN nor infinity on a valid place, (ROWS, 1)."""
    broken = tl.where(tl.abs(x) < float("inf"), 0, 1)
    return tl.max(tl.where(valid, broken, 0), 1, keep_dims=True) == 0


@triton.jit
def scaling(top, bottom):
    """Return whether a row with these halved extremes varies, and what scales it to a range of 1."""
    spread = top - bottom
    noise = NOISE * tl.maximum(tl.abs(top), tl.abs(bottom))
    varies = spread >= tl.maximum(noise, TINY)
    return varies, 1.0 / tl.where(varies, spread, 1.0)


@triton.jit
def standardized(x, valid, count):
    """Standardise rows as `cmkd.functional.standardize` does.

    Returns:
        z, 0 in a constant row; the slope dz/dx but for the projection; the largest z; whether the row varies;
        and 1 / std of the row scaled to a range of 1, which is the range of z.
    """
    half = x * 0.5
    top = tl.max(tl.where(valid, half, -float("inf")), 1, keep_dims=True)
    bottom = tl.min(tl.where(valid, half, float("inf")), 1, keep_dims=True)
    varies, scale = scaling(top, bottom)
    live = valid & varies
    scaled = tl.where(live, (half - top) * scale, 0.0)
    mean = tl.sum(scaled, 1, keep_dims=True) / count
    centred = tl.where(live, scaled - mean, 0.0)
    variance = tl.sum(centred * centred, 1, keep_dims=True) / count
    reach = tl.rsqrt(tl.where(varies, variance, 1.0))
    return centred * reach, 0.5 * scale * reach, tl.where(varies, -mean * reach, 0.0), varies, reach


@triton.jit
def exponentials(z, largest, inverse_tau, valid):
    """Return softmax(z / tau) but for its normaliser, which no correlation sees, and its logarithm."""
    logarithm = tl.maximum((z - largest) * inverse_tau, -1e30)
    return tl.where(valid, tl.exp(logarithm), 0.0), logarithm


@triton.jit
def is_curved(reach, inverse_tau):
    """Return where exponentials, whose largest is 1, differ by more than their rounding."""
    return 1.0 - tl.exp(tl.maximum(-reach * inverse_tau, -1e30)) >= NOISE


@triton.jit
def relative_entropy(total, moment, count):
    """Return H / log C from the sums of e and of e log e, in [0, 1]; 1 where there is but one class."""
    entropy = tl.log(total) - moment / total
    share = entropy / tl.log(tl.maximum(count, 2.0))
    return tl.where(count < 2.0, 1.0, tl.minimum(tl.maximum(share, 0.0), 1.0))


@triton.jit
def correlation(saa, sbb, sab, alive):
    """Return r in [-1, 1] and the two factors of dr/da = pull * b - drag * a; all 0 unless `alive`."""
    alive = alive & (saa > 1e-30) & (sbb > 1e-30)
    saa = tl.where(alive, saa, 1.0)
    pull = tl.where(alive, 1.0 / (tl.sqrt(saa) * tl.sqrt(tl.where(alive, sbb, 1.0))), 0.0)
    r = tl.where(alive, sab * pull, 0.0)
    return tl.minimum(tl.maximum(r, -1.0), 1.0), pull, r / saa


@triton.jit
def place_of(z, KNOTS: tl.constexpr):
    """Return the place of z among the knots, in [0, KNOTS - 1], and the knot on its left."""
    place = (z / (1.0 + tl.abs(z)) + 1.0) * ((KNOTS - 1) * 0.5)
    return place, tl.minimum(tl.maximum(place.to(tl.int32), 0), KNOTS - 2)


@triton.jit
def ramp(distance):
    """Return the distance cut to [0, 1]: the linear share of a value that lies beyond a knot."""
    return tl.minimum(tl.maximum(distance, 0.0), 1.0)


@triton.jit
def beyond(place, weight, RAMPS: tl.constexpr):
    """Return for every knot k the sum of weight * ramp(place - k), (ROWS, RAMPS).

    Differences of neighbours are the linearly binned histogram, so this takes the place of a scatter.
    """
    knot = tl.arange(0, RAMPS)[None, :, None].to(tl.float32)
    return tl.sum(ramp(place[:, None, :] - knot) * weight[:, None, :], 2)


@triton.jit
def around(table, left, first, KNOTS: tl.constexpr):
    """Look up the sums beyond the knots left - 1, left and left + 1; `first` is the sum over the row.

    From memory: a gather of registers is compiled to a selection among all of them.
    """
    before = tl.load(table + left - 1, mask=left > 0, other=0.0)
    after = tl.load(table + left + 1, mask=left < KNOTS - 2, other=0.0)
    return tl.where(left > 0, before, first), tl.load(table + left), after


@triton.jit
def interpolated_rank(place, left, before, here, after, count):
    """Return the binned rank less (C + 1) / 2, over C, from the counts beyond the knots around."""
    share = place - left.to(tl.float32)
    from_top = (1.0 - share) * (before + here) + share * (here + after)
    return 0.5 - 0.5 * from_top / count


@triton.jit
def _first_of_run(key_a, first_a, key_b, first_b):
    return key_b, tl.where(key_a == key_b, first_a, first_b)


@triton.jit
def _ordered_bits(bits):
    """Swap between the bits of a float and an integer of the same order; its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def sorted_row(x, valid, column):
    """Sort rows of up to 1024 values, invalid places last.

    Returns:
        The values, the columns they came from, and their tie-averaged ranks.
    """
    key = _ordered_bits((x + 0.0).to(tl.int32, bitcast=True))
    # The columns stay a permutation, invalid ones too: each of them is written once in the end.
    packed = tl.where(valid, key.to(tl.int64), 0x7FFFFFFFFFFF) << COLUMN_BITS
    packed = tl.sort(packed | column.to(tl.int64), 1)
    key = (packed >> COLUMN_BITS).to(tl.int32)
    _, first = tl.associative_scan((key, column), 1, _first_of_run)
    _, last = tl.associative_scan((key, column), 1, _first_of_run, reverse=True)
    source = (packed & COLUMN_MASK).to(tl.int32)
    return _ordered_bits(key).to(tl.float32, bitcast=True), source, 0.5 * (first + last).to(tl.float32) + 1.0


@triton.jit
def counts(x, others, inside):
    """Return how many of `others` (ROWS, CHUNK) are below x, and how many are not above it."""
    others = tl.where(inside, others, float("inf"))[:, :, None]
    less = tl.where(others < x[:, None, :], 1.0, 0.0)
    upto = tl.where(others <= x[:, None, :], 1.0, 0.0)
    return tl.sum(less, 1), tl.sum(upto, 1)


@triton.jit
def share_of_batch(hardness, mine, M, CHUNK: tl.constexpr):
    """Return (rank - 1/2) / M of `mine` (ROWS, 1) among the M values at `hardness`, ties averaged."""
    twice = tl.zeros_like(mine)
    for start in range(0, M, CHUNK):
        index = start + tl.arange(0, CHUNK)[None, :]
        others = tl.load(hardness + index, mask=index < M, other=float("inf"))
        less = tl.where(others < mine, 1.0, 0.0)
        upto = tl.where(others <= mine, 1.0, 0.0)
        twice += tl.sum(less + upto, 1, keep_dims=True)
    # The value itself counts once in `upto`: rank = (less + upto + 1) / 2.
    return 0.5 * twice / M


@triton.jit
def sum_when_last(values, total, arrived, programs, M, CHUNK: tl.constexpr):
    """Let the program that finishes last add up the M `values`, always in the same order."""
    tl.debug_barrier()
    if tl.atomic_add(arrived, 1, sem="acq_rel") == programs - 1:
        partial = tl.zeros((CHUNK,), tl.float32)
        for start in range(0, M, CHUNK):
            index = start + tl.arange(0, CHUNK)
            partial += tl.load(values + index, mask=index < M, other=0.0, cache_modifier=".cg")
        tl.store(total, tl.sum(partial, 0))

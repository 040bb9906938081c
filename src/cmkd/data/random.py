"""Counter-based random numbers: a pure function of (seed, index, view, stream).

A generator with a state would tie the augmentation of an image to everything drawn before it. Here image
`index` in view `view` gets the same numbers in any order, batch, process and device, so that a cached teacher
saw exactly the pixels the student sees, and a resumed run those of the run that was killed.

The numbers are those of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
generators"), whose n-th output can be computed without the ones before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

_WORD = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


class Stream(IntEnum):
    """What a number is drawn for; two streams of the same seed and view are independent."""

    ORDER = 0
    SPLIT = 1
    FLIP = 2
    TOP = 3
    LEFT = 4
    AREA = 5
    ASPECT = 6
    STAND_IN = 7
    CORRUPTION = 8
    SUBSET = 9
    LABEL = 10
    OTHER_LABEL = 11


def random_bits(indices: Tensor, *, seed: int, view: int, stream: int) -> Tensor:
    """Return 64 random bits for each index.

    They are output number `index` (from 0) of the SplitMix64 generator whose state is a hash of seed, view
    and stream. Integer arithmetic that wraps, hence the same bits on every device.

    Args:
        indices: Non-negative integers, any shape, int64.
        seed: Any integer.
        view: Any integer, for example the epoch.
        stream: What the bits are for.

    Returns:
        int64 of the shape and on the device of `indices`, all 64 bits random (so half of them negative).
    """
    return splitmix64(_state(seed, view, stream), indices)


def splitmix64(state: int, indices: Tensor) -> Tensor:
    """Return outputs of the SplitMix64 generator, each without the ones before it.

    Args:
        state: State at the start, taken modulo 2^64.
        indices: Which outputs, from 0; any shape, int64.

    Returns:
        int64 of the shape and on the device of `indices`, to be read as unsigned.
    """
    return _mix(_steps(indices) + _signed(state & _WORD))


def uniform(indices: Tensor, *, seed: int, view: int, streams: Sequence[int]) -> Tensor:
    """Return uniform numbers in [0, 1) for each index: multiples of 2^-24, exact in float32.

    Several streams take little more time than one.

    Args:
        indices: As for `random_bits`, likewise the other arguments.
        seed: Any integer.
        view: Any integer.
        streams: What the numbers are for.

    Returns:
        float32 `(len(streams), *)`, where `*` is the shape of `indices`, on the device of `indices`.
    """
    steps = _steps(indices)
    bits = _mix(torch.stack([steps + _signed(_state(seed, view, stream)) for stream in streams]))
    return _shift_right(bits, 40).to(torch.float32) * 2.0**-24


def permutation(indices: Tensor, *, seed: int, view: int) -> Tensor:
    """Return the indices, `(N,)` int64, in a random order that depends on seed and view alone."""
    keys = random_bits(indices, seed=seed, view=view, stream=Stream.ORDER)
    return indices[keys.argsort(stable=True)]


def _state(seed: int, view: int, stream: int) -> int:
    state = 0
    for word in (seed, view, stream):
        state = _mix_int((state + _GAMMA) ^ word)
    return state


def _steps(indices: Tensor) -> Tensor:
    """Return how far the generator's state has gone when it gives these outputs."""
    return (indices + 1) * _signed(_GAMMA)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift_right(z, 30)) * _signed(_MULTIPLIERS[0])
    z = (z ^ _shift_right(z, 27)) * _signed(_MULTIPLIERS[1])
    return z ^ _shift_right(z, 31)


def _mix_int(word: int) -> int:
    z = word & _WORD
    z = ((z ^ (z >> 30)) * _MULTIPLIERS[0]) & _WORD
    z = ((z ^ (z >> 27)) * _MULTIPLIERS[1]) & _WORD
    return z ^ (z >> 31)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _shift_right(x: Tensor, by: int) -> Tensor:
    # int64 shifts copy the sign bit down; SplitMix64 is defined on unsigned words.
    return (x >> by) & ((1 << (64 - by)) - 1)

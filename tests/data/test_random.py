import itertools

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmkd.data.random import Stream, permutation, random_bits, splitmix64, uniform

WORD = (1 << 64) - 1


def reference_outputs(state, count):
    """SplitMix64 in the words of its authors, on Python's integers."""
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & WORD
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
        yield z ^ (z >> 31)


def unsigned(bits):
    return [word & WORD for word in bits.tolist()]


def test_published_outputs():
    # The sequence for seed 1234567 that implementations of SplitMix64 are compared with (rosettacode.org).
    assert unsigned(splitmix64(1234567, torch.arange(5))) == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_bits_never_change():
    """Caches and unfinished runs of earlier versions rest on them: state and output on Python's integers."""
    for seed, view, stream in [(0, 0, 0), (1, 2, 3), (2**40, 7, 4), (-5, 0, 1)]:
        state = 0
        for word in (seed, view, stream):
            mixed = ((state + 0x9E3779B97F4A7C15) ^ word) & WORD
            state = next(reference_outputs((mixed - 0x9E3779B97F4A7C15) & WORD, 1))
        found = random_bits(torch.arange(5), seed=seed, view=view, stream=stream)
        assert unsigned(found) == list(reference_outputs(state, 5))


@settings(max_examples=30, deadline=None)
@given(st.integers(-(2**70), 2**70))
def test_outputs_equal_integer_arithmetic(state):
    assert unsigned(splitmix64(state, torch.arange(20))) == list(reference_outputs(state & WORD, 20))


def test_any_output_without_the_ones_before():
    indices = torch.tensor([[7, 3], [19, 0]])
    expected = list(reference_outputs(99, 20))
    assert unsigned(splitmix64(99, indices).flatten()) == [expected[i] for i in indices.flatten().tolist()]


def test_uniform():
    # 200 samples, each with its p-value: if the numbers are uniform, then so are the p-values.
    indices = torch.arange(2000)
    p_values = []
    for seed, view, stream in itertools.product((0, 1, -5, 2**40), range(10), range(5)):
        numbers = uniform(indices, seed=seed, view=view, streams=[stream])[0]
        assert numbers.dtype == torch.float32
        assert 0 <= numbers.min() <= numbers.max() < 1
        p_values.append(scipy.stats.kstest(numbers.double().numpy(), "uniform").pvalue)
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 1e-3


def test_uniform_holds_the_highest_bits():
    arguments = {"seed": 3, "view": 2}
    numbers = uniform(torch.arange(50), streams=[1, 4], **arguments).tolist()
    for stream, found in zip([1, 4], numbers, strict=True):
        bits = unsigned(random_bits(torch.arange(50), stream=stream, **arguments))
        assert found == [(word >> 40) / 2**24 for word in bits]


def test_neighbours_are_uncorrelated():
    indices = torch.arange(20_000)
    base = uniform(indices, seed=0, view=0, streams=[0])[0].numpy()
    others = [
        uniform(indices + 1, seed=0, view=0, streams=[0])[0],
        uniform(indices, seed=1, view=0, streams=[0])[0],
        uniform(indices, seed=0, view=1, streams=[0])[0],
        uniform(indices, seed=0, view=0, streams=[1])[0],
    ]
    for other in others:  # a correlation of n independent pairs has the standard deviation 1 / sqrt(n)
        assert abs(scipy.stats.pearsonr(base, other.numpy()).statistic) < 4 / 20_000**0.5


def test_seed_view_and_stream_do_not_stand_in_for_one_another():
    indices = torch.arange(4)
    words = [
        tuple(random_bits(indices, seed=a, view=b, stream=c).tolist())
        for a in range(3)
        for b in range(3)
        for c in range(3)
    ]
    assert len(set(words)) == 27


def test_streams_are_distinct():
    assert len({int(stream) for stream in Stream}) == len(Stream)


def test_permutation_reorders_what_it_is_given():
    indices = torch.arange(0, 3000, 3)
    first, second = (permutation(indices, seed=0, view=view) for view in (0, 1))
    assert first.sort().values.tolist() == second.sort().values.tolist() == indices.tolist()
    assert (first == second).float().mean() < 0.02
    assert abs(scipy.stats.spearmanr(first.numpy(), second.numpy()).statistic) < 4 / 1000**0.5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_same_bits_on_cuda():
    indices = torch.arange(1000)
    expected = random_bits(indices, seed=1, view=2, stream=3)
    assert torch.equal(random_bits(indices.cuda(), seed=1, view=2, stream=3).cpu(), expected)

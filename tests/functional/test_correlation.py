import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cmkd.errors import InputError
from cmkd.functional import exact_rank, pearson, soft_rank, spearman


def rows(kind, classes=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(6, classes, generator=generator)
    if kind == "tied":
        return torch.randint(0, 4, x.shape, generator=generator).float()
    if kind == "permuted":
        return torch.stack([torch.randperm(classes, generator=generator).float() for _ in x])
    return x


@pytest.mark.parametrize("kind", ["random", "tied", "permuted"])
@pytest.mark.parametrize(
    ("ours", "theirs"), [(pearson, stats.pearsonr), (spearman, stats.spearmanr)], ids=["pearson", "spearman"]
)
def test_equals_scipy_row_by_row(kind, ours, theirs):
    x, y = rows(kind, seed=0), rows(kind, seed=1)
    expected = [theirs(a.double().numpy(), b.double().numpy()).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(ours(x, y), expected, atol=1e-6)
    np.testing.assert_allclose(ours(x.T, y.T, dim=0), expected, atol=1e-6)


@pytest.mark.parametrize("correlation", [pearson, spearman])
def test_constant_row_gives_zero_where_scipy_gives_nan(correlation):
    x, y = rows("random"), rows("random", seed=1)
    x[2] = 5.5
    y[4] = 0.0
    r = correlation(x, y)
    assert r[2] == r[4] == 0
    assert (r[[0, 1, 3, 5]] != 0).all()


def test_constant_row_has_zero_gradient_and_others_have_theirs():
    x, y = rows("random"), rows("random", seed=1)
    x[2] = 5.5
    x.requires_grad_()
    pearson(x, y).sum().backward()
    assert (x.grad[2] == 0).all()
    assert (x.grad[[0, 1, 3, 4, 5]].abs().sum(1) > 0).all()


def test_perfect_correlation_stays_within_one():
    x = torch.randn(200, 5, generator=torch.Generator().manual_seed(3))
    assert pearson(x, 3 * x + 1).max() <= 1
    assert pearson(x, -x).min() >= -1
    torch.testing.assert_close(pearson(x, 3 * x + 1), torch.ones(200))


def test_gradients_are_the_true_ones():
    x = rows("random").double().requires_grad_()
    y = rows("random", seed=1).double().requires_grad_()
    torch.autograd.gradcheck(pearson, (x, y))
    torch.autograd.gradcheck(lambda a: pearson(soft_rank(a), exact_rank(y)), x)


def test_spearman_carries_no_gradient():
    assert not spearman(rows("random").requires_grad_(), rows("random", seed=1)).requires_grad


def test_half_precision_ranks_do_not_overflow():
    # The squares of a thousand ranks sum to 3e8, far beyond the 65504 of float16.
    x = torch.arange(1000.0).half()
    assert spearman(x, x) == 1
    assert pearson(x, x.flip(0)) == -1


def test_different_shapes_are_not_broadcast():
    with pytest.raises(InputError, match=r"\(2, 3\) and \(3,\).*same shape"):
        pearson(torch.ones(2, 3), torch.ones(3))
    with pytest.raises(InputError, match="same shape"):
        spearman(torch.ones(2, 3), torch.ones(2, 4))


@settings(max_examples=25, deadline=None)
@given(
    values=st.lists(st.integers(-50, 50), min_size=3, max_size=12),
    scale=st.floats(1e-3, 1e3),
    shift=st.floats(-100, 100),
)
def test_invariant_to_scale_and_shift(values, scale, shift):
    x = torch.tensor(values, dtype=torch.float64)
    y = torch.arange(len(values), dtype=torch.float64) ** 2
    assert math.isclose(pearson(x * scale + shift, y), pearson(x, y), abs_tol=1e-9)
    assert math.isclose(pearson(-x * scale, y), -pearson(x, y), abs_tol=1e-9)
    assert math.isclose(spearman(x * scale, y), spearman(x, y), abs_tol=1e-9)

"""A mask leaves columns out: the same call on the selected columns is the reference."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmkd.errors import InputError
from cmkd.functional import (
    entropy,
    exact_rank,
    kl_divergence,
    log_probabilities,
    pearson,
    soft_rank,
    spearman,
    standardize,
)

# With 8 knots there is none at 0 or 1 standard deviation, where values often lie.
SOFTNESS = {"laplace": 0.3, "binned": 0.3, "l2": 1.2}
OTHER = torch.randn(8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

# Each takes x, its mask and a second row (all of one width) and gives one value per column ...
PER_COLUMN = {
    "standardize": lambda x, m, _: standardize(x, mask=m),
    "unbiased": lambda x, m, _: standardize(x, correction=1, mask=m),
    "strength": lambda x, m, _: soft_rank(x, method="l2", strength=0.5, mask=m),
    "probabilities": lambda x, m, _: log_probabilities(x, temperature=2.0, mask=m).exp(),
    **{
        method: lambda x, m, _, method=method: soft_rank(x, method=method, softness=SOFTNESS[method], mask=m)
        for method in SOFTNESS
    },
}
# ... or one per row.
PER_ROW = {
    "pearson": lambda x, m, y: pearson(x, y, mask=m),
    "entropy": lambda x, m, _: entropy(x, mask=m),
    "kl": lambda x, m, y: kl_divergence(x, y, mask=m),
    "kl of teacher": lambda x, m, y: kl_divergence(y, x, temperature=100.0, mask=m),
}


def with_gradient(function, x, mask, y, weight):
    x = x.clone().requires_grad_()
    result = function(x, mask, y)
    (result * (weight if result.dim() else 1)).sum().backward()
    return result.detach(), x.grad


@pytest.mark.parametrize("name", [*PER_COLUMN, *PER_ROW])
@settings(max_examples=15, deadline=None)
@given(
    values=st.lists(st.integers(-9, 9), min_size=8, max_size=8),
    valid=st.lists(st.booleans(), min_size=8, max_size=8).filter(any),
    junk=st.sampled_from([0.0, 1e300, -math.inf, math.inf, math.nan]),
)
def test_equals_the_call_on_the_selected_columns(name, values, valid, junk):
    mask = torch.tensor(valid)
    x = torch.tensor(values, dtype=torch.float64)
    # Ties remain, but nothing lies just on a kink of the ranks, where rounding would decide on the side.
    x = (x + 0.1 * x.cos()).where(mask, junk)
    y, weight = OTHER.where(mask, junk), OTHER.sin()
    function = (PER_COLUMN | PER_ROW)[name]
    value, slope = with_gradient(function, x, mask, y, weight)
    expected, expected_slope = with_gradient(function, x[mask], None, y[mask], weight[mask])
    torch.testing.assert_close(value[mask] if value.dim() else value, expected, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(slope[mask], expected_slope, atol=1e-9, rtol=1e-9)
    assert (slope[~mask] == 0).all()
    if value.dim():
        assert (value[~mask] == 0).all()


@pytest.mark.usefixtures("backend")
@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.integers(-3, 3), min_size=8, max_size=8),
    valid=st.lists(st.booleans(), min_size=8, max_size=8).filter(any),
    junk=st.sampled_from([0.0, 3.0, math.inf, math.nan]),
)
def test_exact_ranks_equal_those_of_the_selected_columns(values, valid, junk):
    mask = torch.tensor(valid)
    x = torch.tensor(values, dtype=torch.float32)
    x[~mask] = junk
    assert torch.equal(exact_rank(x, mask=mask)[mask], exact_rank(x[mask]))
    assert (exact_rank(x, mask=mask)[~mask] == 0).all()
    torch.testing.assert_close(spearman(x, OTHER, mask=mask), spearman(x[mask], OTHER[mask]))


def test_exact_ranks_beside_the_largest_numbers():
    mask = torch.tensor([True, False, True])
    top = torch.finfo(torch.float32).max
    assert exact_rank(torch.tensor([top, math.inf, -top]), mask=mask).tolist() == [2, 0, 1]
    assert exact_rank(torch.tensor([math.inf, 0, -math.inf]), mask=mask).tolist() == [2, 0, 1]
    assert exact_rank(torch.tensor([2**63 - 1, 2**63 - 1, 0]), mask=mask).tolist() == [2, 0, 1]


@pytest.mark.parametrize("name", [*PER_COLUMN, *PER_ROW])
def test_rows_differ_and_masks_broadcast(name):
    function = (PER_COLUMN | PER_ROW)[name]
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(2, 5, 8, generator=generator, dtype=torch.float64)
    mask = torch.rand(5, 8, generator=generator) < 0.6
    by_row = torch.stack([function(*row) for row in zip(x, mask, y, strict=True)])
    torch.testing.assert_close(function(x, mask, y), by_row)
    torch.testing.assert_close(function(x, mask[0], y), function(x, mask[:1].expand(5, 8), y))


@pytest.mark.parametrize("name", [*PER_COLUMN, *PER_ROW])
@pytest.mark.parametrize("valid", [0, 1])
def test_too_few_valid_classes_have_no_gradient(name, valid):
    mask = torch.arange(8) < valid
    value, slope = with_gradient((PER_COLUMN | PER_ROW)[name], torch.full((8,), math.nan), mask, OTHER, OTHER)
    if not valid:
        assert value.isfinite().all()
        assert (slope == 0).all()
    value, slope = with_gradient((PER_COLUMN | PER_ROW)[name], OTHER, mask, OTHER.cos(), OTHER)
    assert value.isfinite().all()
    assert (slope == 0).all()
    if name == "pearson":
        assert value == 0


def test_along_another_dimension():
    x = torch.randn(4, 7, 3, generator=torch.Generator().manual_seed(3))
    mask = torch.arange(7) % 3 > 0
    for function in (standardize, exact_rank, lambda v, dim, mask: soft_rank(v, dim=dim, mask=mask)):
        expected = function(x.transpose(1, 2), -1, mask=mask).transpose(1, 2)
        torch.testing.assert_close(function(x, 1, mask=mask[:, None]), expected)


@pytest.mark.parametrize(
    "function",
    [standardize, exact_rank, soft_rank, log_probabilities, entropy]
    + [lambda x, mask, f=f: f(x, x, mask=mask) for f in (pearson, spearman, kl_divergence)],
)
def test_bad_masks_are_named(function):
    x = torch.zeros(2, 3)
    with pytest.raises(InputError, match=r"mask has dtype torch\.int64.*torch\.bool"):
        function(x, mask=torch.ones(3, dtype=torch.int64))
    for shape in ((2,), (4, 2, 3)):
        with pytest.raises(InputError, match=r"mask has shape \(.*does not broadcast to \(2, 3\)"):
            function(x, mask=torch.ones(shape, dtype=torch.bool))

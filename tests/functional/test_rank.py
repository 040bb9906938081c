import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from cmkd.functional import exact_rank

pytestmark = pytest.mark.usefixtures("backend")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-3, 3, width=16), min_size=1, max_size=20))
def test_equals_scipy(values):
    for dtype in (torch.float64, torch.float32, torch.float16):
        rank = exact_rank(torch.tensor(values, dtype=dtype))
        np.testing.assert_array_equal(rank, rankdata(values))


def test_every_dimension():
    x = torch.randint(0, 5, (3, 4, 6), generator=torch.Generator().manual_seed(0))
    for dim in (0, 1, 2, -2):
        np.testing.assert_array_equal(exact_rank(x, dim), rankdata(x.numpy(), axis=dim))


def test_integers_beyond_float32_are_told_apart():
    assert exact_rank(torch.tensor([2**24 + 1, 2**24])).tolist() == [2.0, 1.0]


def test_signed_zeros_and_infinities():
    x = torch.tensor([0.0, -0.0, float("inf"), -float("inf")])
    assert exact_rank(x).tolist() == [2.5, 2.5, 4.0, 1.0]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.float64, torch.float64), (torch.bfloat16, torch.float32), (torch.int64, torch.float32)],
)
def test_dtype_of_the_result(dtype, expected):
    assert exact_rank(torch.tensor([1, 2], dtype=dtype)).dtype == expected


def test_no_gradient():
    assert not exact_rank(torch.ones(3, requires_grad=True)).requires_grad

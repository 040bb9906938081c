import numpy as np
import pytest
import torch
from scipy.stats import zscore

from cmkd.functional import standardize


@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_equals_scipy(dim, correction):
    x = torch.randn(5, 7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = zscore(x.numpy(), axis=dim, ddof=correction)
    np.testing.assert_allclose(standardize(x, dim, correction=correction), expected, atol=1e-12)


def test_gradient_is_the_true_one():
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[1, 2] = x[1, 4]  # a tie, and one at the maximum, by which the row is shifted
    x[2, 0] = x[2, 1] = x[2].max() + 1
    torch.autograd.gradcheck(standardize, x.requires_grad_())
    torch.autograd.gradgradcheck(standardize, x)


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e-30, 3e38])
def test_constant_row_is_exactly_zero_with_zero_gradient(value):
    x = torch.full((2, 7), value, requires_grad=True)
    z = standardize(x)
    assert torch.equal(z, torch.zeros(2, 7))
    (z * torch.arange(7.0)).sum().backward()
    assert torch.equal(x.grad, torch.zeros(2, 7))


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_huge_and_tiny_rows(scale):
    x = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    torch.testing.assert_close(standardize(x * scale), torch.from_numpy(zscore(x.numpy(), axis=1)))


def test_row_wider_than_the_float_range():
    top = torch.finfo(torch.float32).max
    x = torch.tensor([top, 0.0, -top], requires_grad=True)
    z = standardize(x)
    torch.testing.assert_close(z, torch.tensor([1.5**0.5, 0.0, -(1.5**0.5)]))
    z[0].backward()
    assert x.grad.isfinite().all()


def test_a_large_offset_costs_no_more_than_the_rounding_of_the_input():
    x = torch.tensor([1.0, 2.0, 4.0, 8.0])
    torch.testing.assert_close(standardize(x + 2**16), standardize(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_and_returned_in_float32(dtype):
    x = torch.randn(4, 300, generator=torch.Generator().manual_seed(2)).to(dtype)
    z = standardize(x)
    assert z.dtype == torch.float32
    np.testing.assert_allclose(z, zscore(x.double().numpy(), axis=1), atol=1e-5)


def test_one_value_alone_is_constant():
    assert standardize(torch.tensor([[3.0], [4.0]]), correction=1).tolist() == [[0.0], [0.0]]


def test_other_rows_do_not_feel_a_nan():
    z = standardize(torch.tensor([[1.0, float("nan"), 2.0], [1.0, 2.0, 3.0]]))
    assert z[0].isnan().all()
    assert z[1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_rounding_noise_is_no_signal(dtype, scale):
    value = torch.tensor(5.0 * scale, dtype=dtype)
    x = value.repeat(2, 7)
    x[0, 2], x[0, 4] = value.nextafter(value * 2), value.nextafter(value * 0)
    x[1, 2] = value * (1 + 64 * torch.finfo(dtype).eps)  # more than rounding
    x.requires_grad_()
    z = standardize(x)
    (z * torch.arange(7.0)).sum().backward()
    assert (z[0] == 0).all()
    assert (x.grad[0] == 0).all()
    np.testing.assert_allclose(z[1].detach(), zscore(np.eye(7)[2]), atol=1e-6)


def test_a_tiny_row_around_zero_is_signal():
    x = torch.tensor([1e-30, -1e-30, 0.0], requires_grad=True)
    standardize(x)[2].backward()
    # dz_3 / dx_3 = (1 - 1/3) / sigma, as z_3 = 0
    assert x.grad[2].item() == pytest.approx(2 / 3 / (1e-30 * (2 / 3) ** 0.5), rel=1e-5)


def test_infinity_makes_its_row_nan():
    inf = float("inf")
    z = standardize(torch.tensor([[1.0, inf, 2.0], [-inf, 1.0, 2.0], [inf, inf, inf]]))
    assert z.isnan().any(1).all()

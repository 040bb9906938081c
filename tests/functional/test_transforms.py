"""Derivatives of every order, torch.func and torch.compile, for each soft rank and with a mask."""

import pytest
import torch
from torch.func import grad, vmap

from cmkd.functional import exact_rank, pearson, soft_rank

ROWS, CLASSES = 3, 9
MASK = torch.rand(ROWS, CLASSES, generator=torch.Generator().manual_seed(0)) < 0.7
WEIGHT = torch.linspace(-1, 2, CLASSES, dtype=torch.float64).exp()

methods = pytest.mark.parametrize("method", ["laplace", "binned", "l2"])
masks = pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])


def values(seed=1):
    return torch.randn(ROWS, CLASSES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss(x, method, mask=None):
    """A scalar per row that is not linear in the ranks, so that its second derivative is seen."""
    return 1 - pearson(soft_rank(x, method=method, mask=mask), WEIGHT.expand_as(x), mask=mask)


@methods
@masks
def test_first_and_second_derivative_equal_finite_differences(method, mask):
    x = values().requires_grad_()
    torch.autograd.gradcheck(lambda v: loss(v, method, mask), x)
    torch.autograd.gradgradcheck(lambda v: loss(v, method, mask), x)


@methods
@masks
def test_func_transforms_equal_autograd_row_by_row(method, mask):
    x = values().requires_grad_()
    total = loss(x, method, mask).sum()
    (slope,) = torch.autograd.grad(total, x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.square().sum(), x)
    x = x.detach()
    valid = torch.ones_like(MASK) if mask is None else mask

    def of_row(row, flags):
        return loss(row, method, None if mask is None else flags)

    torch.testing.assert_close(vmap(of_row)(x, valid).sum(), total.detach())
    torch.testing.assert_close(vmap(of_row, in_dims=(1, 1))(x.T, valid.T).sum(), total.detach())
    torch.testing.assert_close(vmap(grad(of_row))(x, valid), slope.detach())
    bend = grad(lambda row, flags: grad(of_row)(row, flags).square().sum())
    torch.testing.assert_close(vmap(bend)(x, valid), curvature)


def test_exact_rank_under_vmap():
    x = values().round()
    assert torch.equal(vmap(exact_rank)(x), exact_rank(x))
    assert torch.equal(vmap(lambda v, m: exact_rank(v, mask=m))(x, MASK), exact_rank(x, mask=MASK))


@methods
@masks
def test_compiles_in_one_graph(method, mask):
    torch._dynamo.reset()
    compiled = torch.compile(lambda v: loss(v, method, mask).sum(), fullgraph=True, backend="aot_eager")
    x = values().requires_grad_()
    expected = loss(x, method, mask).sum()
    (slope,) = torch.autograd.grad(expected, x)
    actual = compiled(x)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(torch.autograd.grad(actual, x)[0], slope)

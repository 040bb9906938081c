"""The Spearman loss, by every means by which it is computed."""

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cmkd.errors import InputError
from cmkd.functional import exact_rank, pearson, soft_rank, spearman_loss
from cmkd.kernels import switch

METHODS = ["laplace", "binned", "l2"]
methods = pytest.mark.parametrize("method", METHODS)
# The compiled kernels take float32, the chunks of plain tensor operations all else.
means = pytest.mark.parametrize("means", ["compiled", "plain"])


def by(means):
    return contextlib.nullcontext() if means == "compiled" else switch.disabled()


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def loss_and_grad(student, teacher, **options):
    student = student.detach().clone().requires_grad_()
    loss = spearman_loss(student, teacher, reduction="none", **options)
    (grad,) = torch.autograd.grad(loss.sum(), student)
    return loss.detach(), grad


@means
@methods
def test_sharp_loss_is_one_minus_spearmans_rho(method, means):
    student, teacher = normal(6, 30).argsort(1) ** 1.5, normal(6, 30, seed=1).mul(3).round()
    with by(means):
        loss = spearman_loss(student, teacher, method=method, softness=1e-4, reduction="none")
    expected = [1 - stats.spearmanr(s, t).statistic for s, t in zip(student, teacher, strict=True)]
    np.testing.assert_allclose(loss, expected, atol=1e-4)


@methods
@pytest.mark.parametrize("shape", [(4, 20), (3, 7, 2, 5)])
def test_gradient_is_the_true_one(method, shape):
    """Against numerical differentiation. It takes float64, which the kernels are held against elsewhere."""
    student = normal(*shape, dtype=torch.float64).requires_grad_()
    teacher = normal(*shape, seed=1, dtype=torch.float64)
    torch.autograd.gradcheck(lambda s: spearman_loss(s, teacher, method=method, reduction="none"), student)


@means
@methods
def test_double_backward_is_right(method, means):
    """In float32 through the kernels, against that of the definition in float64."""
    teacher, direction = normal(3, 12, seed=1), normal(3, 12, seed=2)

    def curvature(student, loss):
        student = student.detach().requires_grad_()
        (grad,) = torch.autograd.grad(loss(student), student, create_graph=True)
        return torch.autograd.grad((grad * direction).sum(), student)[0]

    def definition(student):
        return (1 - pearson(soft_rank(student, method=method), exact_rank(teacher.double()))).sum()

    with by(means):
        actual = curvature(normal(3, 12), lambda s: spearman_loss(s, teacher, method=method, reduction="sum"))
    expected = curvature(normal(3, 12).double(), definition)
    torch.testing.assert_close(actual.double(), expected, atol=1e-3, rtol=1e-3)


@methods
def test_transforms_of_torch_func(method):
    student, teacher = normal(5, 12), normal(5, 12, seed=1)

    def of_row(s, t):
        return spearman_loss(s[None], t[None], method=method)

    loss, grad = loss_and_grad(student, teacher, method=method)
    torch.testing.assert_close(torch.func.vmap(of_row)(student, teacher), loss, atol=1e-5, rtol=1e-4)
    slopes = torch.func.vmap(torch.func.grad(of_row))(student, teacher)
    torch.testing.assert_close(slopes, grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("method", ["laplace", "binned"])
def test_compiles_without_graph_breaks_forward_and_backward(method):
    student, teacher = normal(5, 12).requires_grad_(), normal(5, 12, seed=1)
    mask = normal(12, seed=2) > -1
    compiled = torch.compile(spearman_loss, backend="aot_eager", fullgraph=True)
    loss = compiled(student, teacher, method=method, mask=mask)
    (grad,) = torch.autograd.grad(loss, student)
    expected, expected_grad = loss_and_grad(student, teacher, method=method, mask=mask)
    torch.testing.assert_close(loss, expected.mean())
    torch.testing.assert_close(grad * 5, expected_grad, atol=1e-5, rtol=1e-3)


@means
@methods
@pytest.mark.parametrize("of", ["all", "samples", "positions"])
def test_mask_equals_the_selected_columns(method, means, of):
    student, teacher = normal(3, 9, 4), normal(3, 9, 4, seed=1)
    mask = {"all": normal(9, seed=2), "samples": normal(3, 9, seed=2), "positions": normal(3, 9, 4, seed=2)}[
        of
    ]
    mask = mask > -0.7
    spoilt = torch.where(mask if of == "positions" else mask[..., None], student, torch.nan)
    with by(means):
        loss, grad = loss_and_grad(spoilt, teacher, method=method, softness=0.3, mask=mask)
        for n in range(3):
            for p in range(4):
                valid = {
                    "all": mask,
                    "samples": mask[n],
                    "positions": mask[n, :, p] if of == "positions" else None,
                }[of]
                alone, slope = loss_and_grad(
                    student[n : n + 1, valid, p], teacher[n : n + 1, valid, p], method=method, softness=0.3
                )
                torch.testing.assert_close(loss[n, p], alone[0], atol=1e-5, rtol=1e-4)
                torch.testing.assert_close(grad[n, valid, p], slope[0], atol=1e-4, rtol=1e-3)
                assert (grad[n, ~valid, p] == 0).all()


@means
@methods
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_properties(method, means, data):
    """Of the loss and its gradient: permutation, scale and shift, ties, steps against the gradient."""
    numbers = st.integers(-20, 20)
    size = data.draw(st.integers(3, 14))
    row = st.lists(numbers, min_size=size, max_size=size)
    student = torch.tensor([data.draw(row)], dtype=torch.float32)
    teacher = torch.tensor([data.draw(row)], dtype=torch.float32)
    order = torch.tensor(data.draw(st.permutations(range(size))))
    options = {"method": method, "softness": 0.37}
    with by(means):
        loss, grad = loss_and_grad(student, teacher, **options)
        assert 0 <= loss <= 2
        moved, moved_grad = loss_and_grad(student[:, order], teacher[:, order], **options)
        torch.testing.assert_close(moved, loss, atol=1e-5, rtol=0)
        # The binned rank has a kink at every knot, l2 at every border of a block: there, and for such round
        # numbers that is often, rounding decides which of two slopes is given.
        if method == "laplace":
            torch.testing.assert_close(moved_grad, grad[:, order], atol=1e-4, rtol=1e-3)
            scaled, scaled_grad = loss_and_grad(student * 64 + 128, teacher * 3 - 5, **options)
            torch.testing.assert_close(scaled, loss, atol=1e-4, rtol=0)
            torch.testing.assert_close(scaled_grad * 64, grad, atol=1e-3, rtol=1e-2)
        # Values that tie on both sides are the same to the loss, in value and slope.
        same = (student == student.T) & (teacher == teacher.T)
        assert ((grad.T - grad).abs() * same).max() <= 1e-5
        # The gradient of what does not feel a shift or a scale has no part along either.
        torch.testing.assert_close(grad.sum(), torch.tensor(0.0), atol=1e-4, rtol=0)
        torch.testing.assert_close((grad * student).sum(), torch.tensor(0.0), atol=1e-3, rtol=0)


def hostile_rows(count, classes):
    """Rows over the whole floating range: subnormal, tied, constant, with outliers, with both ends of it."""
    generator = torch.Generator().manual_seed(7)

    def rand(*shape):
        return torch.rand(shape, generator=generator)

    x = torch.randn(count, classes, generator=generator) * 10 ** (rand(count, 1) * 60 - 30)
    x += (rand(count, 1) < 0.2) * 10 ** (rand(count, 1) * 30)  # small differences on a large offset
    kind = torch.randint(0, 9, (count, 1), generator=generator)
    x = torch.where(kind == 0, (x / x.abs().amax(1, keepdim=True) * 3).round(), x)
    x = torch.where(kind == 1, x[:, :1], x)
    x = torch.where((kind == 2) & (rand(count, classes) < 0.2), 1e30, x)
    x = torch.where((kind == 3) & (rand(count, classes) < 0.5), -1e4, x)
    x = torch.where(kind == 4, x.sign() * 1e-42, x)
    x = torch.where((kind == 5) & (rand(count, classes) < 0.1), torch.finfo(torch.float32).max, x)
    return torch.where((kind == 5) & (rand(count, classes) < 0.1), -torch.finfo(torch.float32).max, x)


@means
@methods
def test_a_hundred_thousand_hostile_rows(method, means):
    count, classes = 100_000, 9
    student, teacher = hostile_rows(count, classes), hostile_rows(count, classes).flip(0)
    mask = torch.rand(count, classes, generator=torch.Generator().manual_seed(8)) < 0.8
    mask[: count // 2] = True
    assert student.isfinite().all()
    with by(means):
        loss, grad = loss_and_grad(student, teacher, method=method, mask=mask)
        ranks = soft_rank(student, method=method, mask=mask)
    assert ((loss >= 0) & (loss <= 2)).all()
    assert grad.isfinite().all()
    assert (grad[~mask] == 0).all()
    valid = mask.sum(1)
    torch.testing.assert_close(
        ranks.double().sum(1), (valid * (valid + 1) / 2).double(), atol=1e-3, rtol=1e-4
    )
    few = valid < 2
    assert few.any()
    assert (loss[few] == 1).all()
    assert (grad[few] == 0).all()


@means
@methods
def test_constant_rows_correlate_with_nothing(method, means):
    rows = torch.stack([torch.full((8,), 3.3), torch.zeros(8), normal(8)])
    with by(means):
        for student, teacher in ((rows, normal(3, 8, seed=1)), (normal(3, 8, seed=1), rows)):
            loss, grad = loss_and_grad(student, teacher, method=method)
            assert (loss[:2] == 1).all()
            assert (grad[:2] == 0).all()
            assert (grad[2] != 0).any()


@methods
def test_nan_and_infinity_are_an_error_where_that_costs_nothing_and_else_a_row_left_out(method):
    student, teacher = normal(4, 8), normal(4, 8, seed=1)
    student[1, 3], teacher[2, 5] = torch.nan, -torch.inf
    with pytest.raises(InputError, match=r"student logits hold NaN or infinity in 1 of 32 places.*mask"):
        spearman_loss(student, teacher, method=method)

    def of_row(s, t):  # values cannot be looked at here
        return spearman_loss(s[None], t[None], method=method)

    grads, losses = torch.func.vmap(torch.func.grad_and_value(of_row))(student, teacher)
    assert losses[1] == losses[2] == 1
    assert (grads[1:3] == 0).all()
    clean = [0, 3]
    expected, expected_grad = loss_and_grad(student[clean], teacher[clean], method=method)
    torch.testing.assert_close(losses[clean], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(grads[clean], expected_grad, atol=1e-5, rtol=1e-3)


@means
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precisions(means, dtype):
    student, teacher = normal(3, 50).to(dtype), normal(3, 50, seed=1).to(dtype)
    with by(means), torch.autocast("cpu", dtype=torch.bfloat16):
        loss, grad = loss_and_grad(student, teacher)
    expected, expected_grad = loss_and_grad(student.double(), teacher.double())
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert grad.dtype == dtype
    torch.testing.assert_close(loss.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(grad.double(), expected_grad, atol=1e-4, rtol=0.01)


@means
def test_reductions_and_no_gradient(means):
    student, teacher = normal(3, 6, 2), normal(3, 6, 2, seed=1)
    with by(means):
        each = spearman_loss(student, teacher, reduction="none")
        assert each.shape == (3, 2)
        torch.testing.assert_close(spearman_loss(student, teacher), each.mean())
        torch.testing.assert_close(spearman_loss(student, teacher, reduction="sum"), each.sum())
        assert not each.requires_grad
        with torch.no_grad():
            assert torch.equal(spearman_loss(student.requires_grad_(), teacher, reduction="none"), each)


@means
def test_backward_twice_and_no_gradient_for_the_teacher(means):
    student, teacher = normal(3, 6).requires_grad_(), normal(3, 6, seed=1).requires_grad_()
    with by(means):
        loss = spearman_loss(student, teacher)
        loss.backward(retain_graph=True)
        once = student.grad.clone()
        loss.backward()
    assert torch.equal(student.grad, 2 * once)
    assert teacher.grad is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "l3"}, r"unknown rank method 'l3'.*did you mean 'l2'"),
        ({"softness": 0.0}, r"softness is 0\.0.*positive"),
        ({"reduction": "avg"}, r"unknown reduction 'avg'"),
        ({"mask": torch.ones(8)}, r"mask has dtype torch\.float32.*bool"),
        (
            {"mask": torch.ones(3, dtype=torch.bool)},
            r"mask has shape \(3,\).*\(8,\), for all samples, or \(4, 8\)\.",
        ),
        ({"mask": [True]}, "mask has type list"),
        ({"teacher_logits": torch.zeros(4, 9)}, "teacher has 9 classes, student 8"),
        ({"student_logits": torch.zeros(8)}, r"student logits have shape \(8,\).*batch dimension"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"student_logits": normal(4, 8), "teacher_logits": normal(4, 8), **change}
    with pytest.raises(InputError, match=message):
        spearman_loss(arguments.pop("student_logits"), arguments.pop("teacher_logits"), **arguments)

"""Callers that hand in, or do with the result, what is unusual: the same answer by every means."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from cmkd.functional import exact_rank, soft_rank, spearman, spearman_loss
from cmkd.kernels import native, switch
from cmkd.losses import CMKDLoss

METHODS = ["binned", "laplace", "l2"]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_another_default_device_changes_nothing():
    student, teacher = normal(4, 7), normal(4, 7, seed=1)
    expected = CMKDLoss()(student, teacher)
    with torch.device("meta"):
        assert torch.equal(CMKDLoss()(student, teacher), expected)
        assert exact_rank(student).device.type == "cpu"


def test_bool_values_are_ranked_as_0_and_1():
    x = torch.tensor([True, False, True, False, False])
    assert exact_rank(x).tolist() == [4.5, 2, 4.5, 2, 2]
    torch.testing.assert_close(soft_rank(x), soft_rank(x.float()))
    assert spearman(x, x.float()) == pytest.approx(1)


@pytest.mark.parametrize("dim", [2, -3])
def test_a_dimension_that_is_not_there(dim, backend):
    for function in (exact_rank, lambda x, dim: soft_rank(x, dim=dim, softness=0.5)):
        with pytest.raises(IndexError):
            function(normal(3, 4), dim)


@pytest.mark.parametrize(
    ("row", "strength", "expected"),
    [
        ([0.0, 1.0, 2.0, 3.0, 4.0, 1e8], 0.3, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        ([3e38, -3e38, -3e38], 1.0, [3.0, 1.5, 1.5]),
    ],
)
def test_raw_l2_beside_an_outlier_in_float32(row, strength, expected, backend):
    assert soft_rank(torch.tensor(row), method="l2", strength=strength).tolist() == expected


@pytest.mark.parametrize("softness", [1e-310, 1e-100, 1e100, 1e300])
@pytest.mark.parametrize("method", METHODS)
def test_any_softness_stays_finite(method, softness, backend):
    x = torch.tensor([0.0, 1.0, 2.0, 5.0, -3.0], requires_grad=True)
    ranks = soft_rank(x, method=method, softness=softness)
    (grad,) = torch.autograd.grad(ranks[2], x)
    assert ranks.isfinite().all()
    assert grad.isfinite().all()
    if softness < 1:
        torch.testing.assert_close(ranks, exact_rank(x))


@pytest.mark.parametrize("method", METHODS)
def test_a_slope_with_its_sign_pending(method, backend):
    x, weight = normal(2, 6).requires_grad_(), normal(2, 6, seed=1)
    pending = torch.complex(torch.zeros(2, 6), soft_rank(x, method=method)).conj().imag
    (grad,) = torch.autograd.grad((pending * weight).sum(), x)
    (expected,) = torch.autograd.grad((-soft_rank(x, method=method) * weight).sum(), x)
    torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("function", [exact_rank, soft_rank])
def test_a_recorded_graph_is_not_a_constant(function):
    x = normal(2, 6)
    recorded = make_fx(lambda x: function(x))(x)
    torch.testing.assert_close(recorded(x.flip(1)), function(x.flip(1)))


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_of_upstream_gradients(method, backend):
    x, teacher = normal(2, 6).requires_grad_(), normal(2, 6, seed=1)
    loss = spearman_loss(x, teacher, method=method)
    (batch,) = torch.autograd.grad(
        loss, x, torch.tensor([1.0, 2.0]), is_grads_batched=True, retain_graph=True
    )
    (grad,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(batch, torch.stack([grad, 2 * grad]))


def test_a_vectorised_jacobian(backend):
    x = normal(2, 6)
    torch.testing.assert_close(
        torch.autograd.functional.jacobian(soft_rank, x, vectorize=True),
        torch.autograd.functional.jacobian(soft_rank, x),
    )


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_gradient_may_be_changed_in_place(reduction, backend):
    x, teacher = normal(3, 6).requires_grad_(), normal(3, 6, seed=1)
    loss = spearman_loss(x, teacher, reduction=reduction)
    upstream = torch.ones_like(loss)
    first = torch.autograd.grad(loss, x, upstream, retain_graph=True)[0]
    kept = first.clone()
    first.mul_(2)
    assert torch.equal(torch.autograd.grad(loss, x, upstream, retain_graph=True)[0], kept)
    torch.testing.assert_close(torch.autograd.grad(loss, x, upstream / 4)[0], kept / 4)


def test_inference_mode(backend):
    student, teacher = normal(3, 6).requires_grad_(), normal(3, 6, seed=1)
    expected = CMKDLoss()(student, teacher).detach()
    with torch.inference_mode():
        assert torch.equal(CMKDLoss()(student, teacher), expected)


@pytest.mark.parametrize("change", [lambda t: t * 1e-38, lambda t: 1000 + 1e-5 * t])
def test_a_teacher_that_is_constant_but_for_rounding_has_no_ranks(change, backend):
    student, teacher = normal(4, 7), change(normal(4, 7, seed=1))
    assert (spearman_loss(student, teacher, reduction="none") == 1).all()


@pytest.mark.parametrize("tau", [1e-3, 1e-6, 1e-30])
def test_a_small_temperature_does_not_magnify_rounding(tau, backend):
    student, teacher = normal(4, 7).requires_grad_(), normal(4, 7, seed=1)
    CMKDLoss(tau=tau, difficulty="constant", constant_weight=0.0)(student, teacher).backward()
    assert student.grad.abs().max() < 1e-3


def test_float16_takes_the_kernels(monkeypatch):
    if not native.available():
        pytest.skip(native.describe())
    x = normal(3, 50).half()
    with switch.disabled():
        expected = exact_rank(x), soft_rank(x)
    monkeypatch.setattr(torch.Tensor, "sort", None)  # what plain PyTorch ranks by
    torch.testing.assert_close((exact_rank(x), soft_rank(x)), expected)

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import kl_div, log_softmax, softmax

from cmkd.errors import InputError
from cmkd.functional import entropy, kl_divergence, log_probabilities


def logits(seed, classes=9):
    return 3 * torch.randn(5, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_equals_scipy(temperature):
    s, t = logits(0), logits(1)
    p_s, p_t = (softmax(x.numpy() / temperature, axis=1) for x in (s, t))
    np.testing.assert_allclose(
        kl_divergence(s, t, temperature=temperature), stats.entropy(p_t, p_s, axis=1), atol=1e-12
    )
    np.testing.assert_allclose(entropy(t, temperature=temperature), stats.entropy(p_t, axis=1), atol=1e-12)
    np.testing.assert_allclose(
        log_probabilities(t, temperature=temperature),
        log_softmax(t.numpy() / temperature, axis=1),
        atol=1e-12,
    )
    np.testing.assert_allclose(kl_divergence(s.T, t.T, dim=0), kl_divergence(s, t), atol=1e-12)


def test_by_hand():
    # p_t = (1/4, 3/4) against p_s = (1/2, 1/2): log 2 minus the entropy of p_t.
    expected = math.log(2) + 0.25 * math.log(0.25) + 0.75 * math.log(0.75)
    actual = kl_divergence(torch.zeros(2), torch.tensor([0.0, math.log(3)]))
    assert math.isclose(actual, expected, rel_tol=1e-6)


def test_gradients_are_the_true_ones():
    s, t = logits(0).requires_grad_(), logits(1).requires_grad_()
    torch.autograd.gradcheck(lambda a, b: kl_divergence(a, b, temperature=2.0), (s, t))
    torch.autograd.gradcheck(entropy, t)


@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_no_nan_where_probabilities_underflow(temperature):
    top = torch.finfo(torch.float32).max
    t = torch.tensor([[0.0, -1e4, 5.0], [1e30, -1e30, 0.0], [top, -top, 0.0]])
    s = t.clone().requires_grad_()
    assert (kl_divergence(s, t, temperature=temperature) == 0).all()
    assert (entropy(t[1:], temperature=temperature) == 0).all()
    kl_divergence(s, t.flip(1), temperature=temperature).sum().backward()
    assert s.grad.isfinite().all()


def test_half_precision_is_computed_in_float32():
    s, t = logits(0).half(), logits(1).half()
    actual = kl_divergence(s, t)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), kl_divergence(s.double(), t.double()), atol=1e-5, rtol=1e-5)


def test_bad_input_is_named():
    with pytest.raises(InputError, match=r"\(2, 3\).*\(2, 4\)"):
        kl_divergence(torch.zeros(2, 3), torch.zeros(2, 4))
    for temperature in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(InputError, match=f"temperature is {temperature}"):
            kl_divergence(torch.zeros(3), torch.zeros(3), temperature=temperature)


@pytest.mark.parametrize("temperature", [50.0, 1000.0, 1e5])
def test_high_temperature_does_not_drown_in_rounding(temperature):
    s, t = logits(0, classes=100).float(), logits(1, classes=100).float()
    p_s, p_t = (softmax(x.double().numpy() / temperature, axis=1) for x in (s, t))
    # p log(p / q) - p + q, summed, has the same value and no cancellation between its terms
    expected = kl_div(p_t, p_s).sum(1)
    actual = kl_divergence(s, t, temperature=temperature)
    assert actual.dtype == torch.float32
    np.testing.assert_allclose(actual, expected, rtol=1e-3)

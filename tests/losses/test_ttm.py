import math

import numpy as np
import pytest
import torch

from cmkd.errors import InputError
from cmkd.losses import TTMLoss, kd_loss, ttm_loss
from tests.losses import references


@pytest.mark.parametrize(("gamma", "beta"), [(0.1, 45.0), (0.8, 1.6), (1.0, 1.0)])
def test_equals_scipy(case, gamma, beta):
    student, teacher = case.student.numpy(), case.teacher.numpy()
    actual = ttm_loss(*case, gamma=gamma, beta=beta, reduction="none")
    np.testing.assert_allclose(actual, references.ttm(student, teacher, gamma, beta)[0], atol=1e-11)

    parameter = case.student.clone().requires_grad_()
    ttm_loss(parameter, case.teacher, gamma=gamma, beta=beta).backward()
    slope = references.gradient(lambda s: references.ttm(s, teacher, gamma, beta)[0].mean(), student)
    np.testing.assert_allclose(parameter.grad, slope, atol=1e-7)


def test_by_hand():
    # gamma = 1/2 makes (3, 1) / 4 of the probabilities (9, 1) / 10.
    teacher = torch.tensor([[math.log(9), 0.0]])
    expected = math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    loss = ttm_loss(torch.zeros(1, 2), teacher, gamma=0.5, beta=3.0)
    assert math.isclose(loss, 3 * expected, rel_tol=1e-6)


def test_it_is_kd_and_an_entropy(case):
    """Zheng and Yang 2024, eq. 15: D(p_T || q) = T D(p_T || q_T) - (T - 1) H_{1/T}(q) + (T - 1) H(p_T)."""
    temperature, gamma = 4.0, 0.25
    q = case.student.softmax(1)
    renyi = (q**gamma).sum(1).log() / (1 - gamma)
    p = (case.teacher / temperature).softmax(1)
    shannon = -(p * p.log()).sum(1)
    divergence = kd_loss(*case, temperature=temperature, alpha=1.0, reduction="none") / temperature**2
    expected = temperature * divergence + (temperature - 1) * (shannon - renyi)
    torch.testing.assert_close(ttm_loss(*case, gamma=gamma, beta=1.0, reduction="none"), expected)


def test_probabilities_that_underflow_keep_their_power():
    """exp(-1000) is 0 in every precision, and its power 0.001 is not."""
    teacher = torch.tensor([[1000.0, 0.0]])
    p = 1 / (1 + math.exp(-1))
    expected = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    assert math.isclose(ttm_loss(torch.zeros(1, 2), teacher, gamma=0.001, beta=1.0), expected, rel_tol=1e-5)


def test_module_equals_function_and_shows_its_options(case):
    options = {"gamma": 0.3, "beta": 7.0, "logit_standardization": True, "reduction": "sum"}
    distill = TTMLoss(**options)
    assert torch.equal(distill(*case), ttm_loss(*case, **options))
    assert repr(distill) == "TTMLoss(gamma=0.3, beta=7.0, logit_standardization=True, reduction='sum')"
    assert distill.task_weight == 1.0


def test_bad_options_are_named_when_the_module_is_made():
    with pytest.raises(InputError, match=r"gamma is 4\.0.*at most 1"):
        TTMLoss(gamma=4.0)
    with pytest.raises(InputError, match=r"gamma is 0\.0"):
        TTMLoss(gamma=0.0)
    with pytest.raises(InputError, match=r"beta is -1\.0"):
        TTMLoss(beta=-1.0)
    with pytest.raises(InputError, match=r"unknown reduction"):
        TTMLoss(reduction="all")

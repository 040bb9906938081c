import math

import numpy as np
import pytest
import torch

from cmkd.errors import InputError
from cmkd.losses import WTTMLoss, ttm_loss, wttm_loss
from tests.losses import references


@pytest.mark.parametrize(("gamma", "beta"), [(0.1, 2.25), (0.8, 1.6), (1.0, 1.0)])
def test_equals_scipy(case, gamma, beta):
    student, teacher = case.student.numpy(), case.teacher.numpy()

    def reference(s):
        divergence, power_sum = references.ttm(s, teacher, gamma, beta)
        return power_sum * divergence

    actual = wttm_loss(*case, gamma=gamma, beta=beta, reduction="none")
    np.testing.assert_allclose(actual, reference(student), atol=1e-11)

    parameter = case.student.clone().requires_grad_()
    wttm_loss(parameter, case.teacher, gamma=gamma, beta=beta).backward()
    slope = references.gradient(lambda s: reference(s).mean(), student)
    np.testing.assert_allclose(parameter.grad, slope, atol=1e-7)


@pytest.mark.parametrize(
    ("teacher", "weight"), [([0.0, 0.0, 0.0, 0.0], 4**0.5), ([900.0, 0.0, 0.0, 0.0], 1.0)]
)
def test_the_weight_is_one_for_certainty_and_largest_for_none(teacher, weight):
    """C^(1 - gamma) of a uniform teacher, with C = 4 and gamma = 1/2."""
    student, teacher = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([teacher])
    plain = ttm_loss(student, teacher, gamma=0.5, beta=1.0)
    assert math.isclose(wttm_loss(student, teacher, gamma=0.5, beta=1.0), weight * plain, rel_tol=1e-6)


def test_module_equals_function_and_shows_its_options(case):
    options = {"gamma": 0.3, "beta": 7.0, "logit_standardization": True, "reduction": "sum"}
    distill = WTTMLoss(**options)
    assert torch.equal(distill(*case), wttm_loss(*case, **options))
    assert repr(distill) == "WTTMLoss(gamma=0.3, beta=7.0, logit_standardization=True, reduction='sum')"
    assert distill.task_weight == 1.0


def test_bad_options_are_named_when_the_module_is_made():
    with pytest.raises(InputError, match=r"gamma is nan"):
        WTTMLoss(gamma=math.nan)
    with pytest.raises(InputError, match=r"beta is inf"):
        WTTMLoss(beta=math.inf)

import math

import numpy as np
import pytest
import torch

from cmkd.errors import InputError
from cmkd.losses import KDLoss, kd_loss
from tests.losses import references


@pytest.mark.parametrize(("temperature", "alpha"), [(4.0, 0.9), (1.0, 1.0), (0.7, 0.0)])
def test_equals_scipy(case, temperature, alpha):
    actual = kd_loss(*case, temperature=temperature, alpha=alpha, reduction="none")
    expected = references.kd(case.student.numpy(), case.teacher.numpy(), temperature, alpha)
    np.testing.assert_allclose(actual, expected, atol=1e-12)


def test_logit_standardization(case):
    actual = kd_loss(*case, temperature=2.0, alpha=9.0, logit_standardization=True, reduction="none")
    z_s, z_t = (references.standardized(x.numpy()) for x in (case.student, case.teacher))
    np.testing.assert_allclose(actual, references.kd(z_s, z_t, 2.0, 9.0), atol=1e-12)


def test_by_hand():
    # T = 2 makes p_t = (1/4, 3/4) of logits (0, 2 log 3); KL to the uniform is log 2 - H(1/4).
    teacher = torch.tensor([[0.0, 2 * math.log(3)]])
    kl = math.log(2) + 0.25 * math.log(0.25) + 0.75 * math.log(0.75)
    loss = kd_loss(torch.zeros(1, 2), teacher, temperature=2.0, alpha=0.5)
    assert math.isclose(loss, 0.5 * 4 * kl, rel_tol=1e-6)


def test_gradient_does_not_shrink_with_the_temperature(case):
    """The T^2 is there for this: for large T the gradient tends to (s - t) / C of the centred logits."""
    student = case.student.clone().requires_grad_()
    kd_loss(student, case.teacher, temperature=1e4, alpha=1.0, reduction="sum").backward()
    difference = case.student - case.teacher
    expected = (difference - difference.mean(1, keepdim=True)) / case.student.shape[1]
    torch.testing.assert_close(student.grad, expected, atol=1e-3, rtol=1e-3)


def test_task_weight_completes_hintons_objective():
    assert KDLoss().task_weight == pytest.approx(0.1)
    assert KDLoss(alpha=0.25).task_weight == 0.75
    assert KDLoss(temperature=2.0, alpha=9.0, logit_standardization=True).task_weight == 0.1


def test_module_equals_function_and_shows_its_options(case):
    options = {"temperature": 3.0, "alpha": 0.7, "logit_standardization": True, "reduction": "sum"}
    distill = KDLoss(**options)
    assert torch.equal(distill(*case), kd_loss(*case, **options))
    assert repr(distill) == "KDLoss(temperature=3.0, alpha=0.7, logit_standardization=True, reduction='sum')"


def test_bad_options_are_named_when_the_module_is_made():
    with pytest.raises(InputError, match=r"temperature is 0\.0.*positive"):
        KDLoss(temperature=0.0)
    with pytest.raises(InputError, match=r"alpha is -1\.0.*at least 0"):
        KDLoss(alpha=-1.0)
    with pytest.raises(InputError, match=r"alpha is nan"):
        KDLoss(alpha=math.nan)
    with pytest.raises(InputError, match=r"unknown reduction 'avg'.*known: mean, none, sum"):
        KDLoss(reduction="avg")

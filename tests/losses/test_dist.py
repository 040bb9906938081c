import math

import numpy as np
import pytest
import torch
from scipy.special import softmax

from cmkd.errors import InputError
from cmkd.losses import DISTLoss, dist_loss
from tests.losses import references


@pytest.mark.parametrize(
    ("tau", "alpha", "beta", "gamma"), [(4.0, 2.0, 1.0, 1.0), (1.0, 1.0, 1.0, 0.0), (2.0, 1.0, 0.5, 3.0)]
)
def test_equals_scipy(case, tau, alpha, beta, gamma):
    p_s, p_t = (softmax(x.numpy() / tau, axis=1) for x in (case.student, case.teacher))
    inter, intra = references.dist_terms(p_s, p_t)
    expected = alpha * tau**2 * (beta * inter + gamma * intra)
    actual = dist_loss(*case, tau=tau, alpha=alpha, beta=beta, gamma=gamma, reduction="none")
    np.testing.assert_allclose(actual, expected, atol=1e-11)


def test_by_hand():
    # Rows (1/2, 1/4, 1/4) and (1/4, 1/2, 1/4) correlate by -1/2.
    student, teacher = torch.tensor([[math.log(2), 0.0, 0.0]]), torch.tensor([[0.0, math.log(2), 0.0]])
    loss = dist_loss(student, teacher, tau=1.0, alpha=1.0, beta=1.0, gamma=0.0)
    assert math.isclose(loss, 1.5, rel_tol=1e-5)


def test_batch_of_one_has_no_intra_class_relation():
    student = torch.tensor([[1.0, 2.0, 4.0]], requires_grad=True)
    loss = dist_loss(student, torch.tensor([[1.0, 3.0, 2.0]]), tau=1.0, alpha=1.0, beta=0.0, gamma=1.0)
    assert loss == 1.0
    loss.backward()
    assert (student.grad == 0).all()


def test_module_equals_function_and_shows_its_options(case):
    options = {
        "tau": 1.0,
        "alpha": 3.0,
        "beta": 0.5,
        "gamma": 2.0,
        "logit_standardization": True,
        "reduction": "sum",
    }
    distill = DISTLoss(**options)
    assert torch.equal(distill(*case), dist_loss(*case, **options))
    assert repr(distill) == (
        "DISTLoss(tau=1.0, alpha=3.0, beta=0.5, gamma=2.0, logit_standardization=True, reduction='sum')"
    )
    assert distill.task_weight == 1.0


def test_bad_options_are_named_when_the_module_is_made():
    with pytest.raises(InputError, match=r"tau is 0\.0.*positive"):
        DISTLoss(tau=0.0)
    for name in ("alpha", "beta", "gamma"):
        with pytest.raises(InputError, match=rf"{name} is -2\.0"):
            DISTLoss(**{name: -2.0})
    with pytest.raises(InputError, match=r"unknown reduction"):
        DISTLoss(reduction="batchmean")

import numpy as np
import pytest
import torch

from cmkd.errors import InputError
from cmkd.functional import default_softness
from cmkd.functional.soft_rank_binned import number_of_knots
from cmkd.losses import CMKDLoss, SpearmanLoss
from tests.losses import references


def test_equals_scipy(case):
    student, teacher = case.student.numpy(), case.teacher.numpy()
    knots = number_of_knots(default_softness("binned", 10))

    def reference(s):
        return 3 * references.cmkd_terms(s, teacher, knots)[1]

    actual = SpearmanLoss(alpha=3.0, reduction="none")(*case)
    np.testing.assert_allclose(actual, reference(student), atol=1e-10)

    parameter = case.student.clone().requires_grad_()
    SpearmanLoss(alpha=3.0)(parameter, case.teacher).backward()
    slope = references.gradient(lambda s: reference(s).mean(), student)
    np.testing.assert_allclose(parameter.grad, slope, atol=1e-7)


@pytest.mark.parametrize("options", [{}, {"rank_method": "laplace", "rank_softness": 0.2}])
def test_is_cmkd_without_values(case, options):
    cmkd = CMKDLoss(difficulty="constant", constant_weight=1.0, **options)
    torch.testing.assert_close(SpearmanLoss(**options)(*case), cmkd(*case))


def test_logit_standardization_would_change_nothing(case):
    z_s, z_t = (torch.from_numpy(references.standardized(x.numpy())) for x in case[:2])
    torch.testing.assert_close(SpearmanLoss()(z_s, z_t), SpearmanLoss()(*case))


def test_it_warns_where_ranks_have_become_values(make_case):
    case = make_case(classes=100)
    with pytest.warns(UserWarning, match="second Pearson term"):
        SpearmanLoss(rank_method="l2", rank_softness=1000.0)(*case)
    with pytest.warns(UserWarning, match="use KDLoss"):
        SpearmanLoss()(*make_case(classes=2))


def test_the_target_is_checked(case):
    with pytest.raises(InputError, match="outside the 10 classes"):
        SpearmanLoss()(case.student, case.teacher, case.target + 10)


def test_options_are_shown_and_checked():
    distill = SpearmanLoss(alpha=2.0, rank_method="laplace", rank_softness=0.1, reduction="sum")
    assert repr(distill).startswith(
        "SpearmanLoss(alpha=2.0, rank_method='laplace', rank_softness=0.1, reduction='sum'"
    )
    assert distill.task_weight == 1.0
    with pytest.raises(InputError, match=r"alpha is -1\.0"):
        SpearmanLoss(alpha=-1.0)
    with pytest.raises(InputError, match=r"softness is 0\.0"):
        SpearmanLoss(rank_softness=0.0)
    with pytest.raises(InputError, match=r"unknown rank method 'exact'"):
        SpearmanLoss(rank_method="exact")

import math

import numpy as np
import pytest
import torch

from cmkd.errors import InputError
from cmkd.losses import DKDLoss, dkd_loss
from tests.losses import references


@pytest.mark.parametrize(
    ("temperature", "alpha", "beta"), [(4.0, 1.0, 8.0), (1.0, 1.0, 0.0), (2.0, 0.0, 1.0)]
)
def test_equals_the_paper_row_by_row(case, temperature, alpha, beta):
    actual = dkd_loss(*case, temperature=temperature, alpha=alpha, beta=beta, reduction="none")
    expected = references.dkd(*(x.numpy() for x in case), temperature, alpha, beta)
    np.testing.assert_allclose(actual, expected, atol=1e-11)


def test_logit_standardization(case):
    actual = dkd_loss(*case, logit_standardization=True, reduction="none")
    z_s, z_t = (references.standardized(x.numpy()) for x in (case.student, case.teacher))
    np.testing.assert_allclose(
        actual, references.dkd(z_s, z_t, case.target.numpy(), 4.0, 1.0, 8.0), atol=1e-11
    )


def test_parts_add_up_to_the_divergence_they_decouple(case):
    """Zhao et al. 2022, eq. 5: KL = TCKD + (1 - p_target of the teacher) NCKD."""
    target_part = dkd_loss(*case, temperature=1.0, alpha=1.0, beta=0.0, reduction="none")
    other_part = dkd_loss(*case, temperature=1.0, alpha=0.0, beta=1.0, reduction="none")
    p_target = case.teacher.softmax(1).gather(1, case.target[:, None]).squeeze(1)
    expected = references.kd(case.student.numpy(), case.teacher.numpy(), 1.0, 1.0)
    np.testing.assert_allclose(target_part + (1 - p_target) * other_part, expected, atol=1e-11)


def test_by_hand():
    # Teacher (1/2, 1/4, 1/4), student (1/4, 1/2, 1/4), label 0, T = 1.
    teacher = torch.tensor([[math.log(2), 0.0, 0.0]])
    student = torch.tensor([[0.0, math.log(2), 0.0]])
    target_part = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    other_part = 0.5 * math.log(0.5 / (2 / 3)) + 0.5 * math.log(0.5 / (1 / 3))
    loss = dkd_loss(student, teacher, torch.tensor([0]), temperature=1.0, alpha=3.0, beta=5.0)
    assert math.isclose(loss, 3 * target_part + 5 * other_part, rel_tol=1e-5)


def test_target_is_left_out_exactly():
    """A label a thousand above the others: the published mask of -1000 would leave it in."""
    teacher = torch.tensor([[4000.0, 1.0, 2.0]], dtype=torch.float64)
    student = torch.tensor([[4000.0, 2.0, 1.0]], dtype=torch.float64)
    loss = dkd_loss(student, teacher, torch.tensor([0]), temperature=1.0, alpha=0.0, beta=1.0)
    p = 1 / (1 + math.exp(-1))
    assert math.isclose(loss, p * math.log(p / (1 - p)) + (1 - p) * math.log((1 - p) / p), rel_tol=1e-9)


def test_two_classes_leave_no_non_target_part(make_case):
    case = make_case(classes=2)
    assert dkd_loss(*case, alpha=0.0, beta=8.0) == 0


def test_target_is_required(case):
    with pytest.raises(InputError, match=r"target is None: pass the labels"):
        DKDLoss()(case.student, case.teacher)


def test_module_equals_function_and_shows_its_options(case):
    options = {
        "temperature": 3.0,
        "alpha": 0.7,
        "beta": 2.0,
        "logit_standardization": True,
        "reduction": "none",
    }
    distill = DKDLoss(**options)
    assert torch.equal(distill(*case), dkd_loss(*case, **options))
    assert repr(distill) == (
        "DKDLoss(temperature=3.0, alpha=0.7, beta=2.0, logit_standardization=True, reduction='none')"
    )
    assert distill.task_weight == 1.0


def test_bad_options_are_named_when_the_module_is_made():
    with pytest.raises(InputError, match=r"temperature is -4\.0"):
        DKDLoss(temperature=-4.0)
    with pytest.raises(InputError, match=r"beta is inf.*finite"):
        DKDLoss(beta=math.inf)
    with pytest.raises(InputError, match=r"unknown reduction"):
        dkd_loss(torch.zeros(1, 3), torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64), reduction="all")


@pytest.mark.parametrize("temperature", [50.0, 1000.0])
def test_high_temperature_does_not_drown_in_rounding(make_case, temperature):
    case = make_case(classes=100, dtype=torch.float32)
    actual = dkd_loss(*case, temperature=temperature, reduction="none")
    arrays = (case.student.double().numpy(), case.teacher.double().numpy(), case.target.numpy())
    assert actual.dtype == torch.float32
    np.testing.assert_allclose(actual, references.dkd(*arrays, temperature, 1.0, 8.0), rtol=1e-3)

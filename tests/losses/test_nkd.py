import math

import numpy as np
import pytest
import torch

from cmkd.errors import InputError
from cmkd.losses import NKDLoss, dkd_loss, nkd_loss
from tests.losses import references

SETTINGS = [(3.0, 3.5), (1.0, 1.5), (2.0, 0.0)]


@pytest.mark.parametrize(("temperature", "gamma"), SETTINGS)
def test_equals_the_paper_row_by_row(case, temperature, gamma):
    arrays = [x.numpy() for x in case]
    expected = references.nkd(*arrays, temperature, gamma)
    actual = nkd_loss(*case, temperature=temperature, gamma=gamma, reduction="none")
    np.testing.assert_allclose(actual, expected, atol=1e-11)

    student = case.student.clone().requires_grad_()
    nkd_loss(student, *case[1:], temperature=temperature, gamma=gamma).backward()
    slope = references.gradient(
        lambda s: references.nkd(s, *arrays[1:], temperature, gamma).mean(), arrays[0]
    )
    np.testing.assert_allclose(student.grad, slope, atol=1e-8)


def test_by_hand():
    # Teacher (1/2, 1/4, 1/4), student (1/4, 1/2, 1/4), label 0: the others are (1/2, 1/2) and (2/3, 1/3).
    teacher = torch.tensor([[math.log(2), 0.0, 0.0]])
    student = torch.tensor([[0.0, math.log(2), 0.0]])
    expected = 0.5 * math.log(4) + 5 * 0.5 * (math.log(3 / 2) + math.log(3))
    loss = nkd_loss(student, teacher, torch.tensor([0]), temperature=1.0, gamma=5.0)
    assert math.isclose(loss, expected, rel_tol=1e-6)


def test_the_other_classes_are_taught_as_by_dkd(case):
    """The second part is the NCKD of DKD plus the entropy of the teacher, which has no gradient."""
    slopes = []
    for loss, options in ((nkd_loss, {"gamma": 2.0}), (dkd_loss, {"alpha": 0.0, "beta": 2.0})):
        student = case.student.clone().requires_grad_()
        loss(student, *case[1:], temperature=3.0, **options).backward()
        slopes.append(student.grad)
    only_target = case.student.clone().requires_grad_()
    nkd_loss(only_target, *case[1:], gamma=0.0).backward()
    torch.testing.assert_close(slopes[0] - only_target.grad, slopes[1])


def test_two_classes_leave_the_target_alone(make_case):
    case = make_case(classes=2)
    p_t, p_s = (x.softmax(1).gather(1, case.target[:, None]) for x in (case.teacher, case.student))
    torch.testing.assert_close(nkd_loss(*case), (-p_t * p_s.log()).mean())


def test_target_is_required(case):
    with pytest.raises(InputError, match=r"NKD.*target is None: pass the labels"):
        NKDLoss()(case.student, case.teacher)


def test_module_equals_function_and_shows_its_options(case):
    options = {"temperature": 2.0, "gamma": 0.7, "logit_standardization": True, "reduction": "none"}
    distill = NKDLoss(**options)
    assert torch.equal(distill(*case), nkd_loss(*case, **options))
    assert (
        repr(distill) == "NKDLoss(temperature=2.0, gamma=0.7, logit_standardization=True, reduction='none')"
    )
    assert distill.task_weight == 1.0


def test_bad_options_are_named_when_the_module_is_made():
    with pytest.raises(InputError, match=r"temperature is 0\.0"):
        NKDLoss(temperature=0.0)
    with pytest.raises(InputError, match=r"gamma is -1\.0"):
        NKDLoss(gamma=-1.0)
    with pytest.raises(InputError, match=r"unknown reduction"):
        NKDLoss(reduction="all")

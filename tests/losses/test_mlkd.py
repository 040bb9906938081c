import math

import numpy as np
import pytest
import torch
from scipy.special import softmax

from cmkd.errors import InputError
from cmkd.losses import MLKDLoss, mlkd_loss
from tests.losses import references

TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)


def weighted(instance, batch, classes):
    return {"instance_weight": instance, "batch_weight": batch, "class_weight": classes}


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.0, 2.0, 0.0), (0.0, 0.0, 3.0), (0.5, 0.0, 1.0)])
@pytest.mark.parametrize(("samples", "classes"), [(4, 9), (9, 4), (5, 5)])
def test_equals_the_matrices_of_the_paper(make_case, weights, samples, classes):
    case = make_case(samples=samples, classes=classes)
    student, teacher = case.student.numpy(), case.teacher.numpy()
    parameter = case.student.clone().requires_grad_()
    actual = mlkd_loss(parameter, teacher_logits=case.teacher, alpha=0.9, **weighted(*weights))
    expected = 0.9 * references.mlkd(student, teacher, TEMPERATURES, weights)
    assert math.isclose(actual.detach(), expected, rel_tol=1e-10)

    actual.backward()
    slope = references.gradient(lambda s: 0.9 * references.mlkd(s, teacher, TEMPERATURES, weights), student)
    np.testing.assert_allclose(parameter.grad, slope, atol=1e-8)


def test_by_hand():
    # p_t = (1/4, 3/4) and p_s = (1/2, 1/2): Gram 10/16 against 8/16, and (1, 3, 3, 9) / 16 against 4 / 16.
    teacher, student = torch.tensor([[0.0, math.log(3)]]), torch.zeros(1, 2)
    options = {"alpha": 1.0, "temperatures": [1.0]}
    assert math.isclose(
        mlkd_loss(student, teacher, **options, **weighted(0, 1, 0)), (2 / 16) ** 2, rel_tol=1e-5
    )
    by_class = (3**2 + 1 + 1 + 5**2) / 16**2 / 2
    assert math.isclose(mlkd_loss(student, teacher, **options, **weighted(0, 0, 1)), by_class, rel_tol=1e-5)
    kl = math.log(2) + 0.25 * math.log(0.25) + 0.75 * math.log(0.75)
    assert math.isclose(mlkd_loss(student, teacher, **options, **weighted(1, 0, 0)), kl, rel_tol=1e-6)


@pytest.mark.parametrize(("samples", "classes"), [(4, 9), (9, 4)])
def test_every_sample_has_its_own_row_of_the_relations(make_case, samples, classes):
    case = make_case(samples=samples, classes=classes)
    p_s, p_t = (softmax(x.numpy() / 3, axis=1) for x in (case.student, case.teacher))
    rows = np.square(p_t @ p_t.T - p_s @ p_s.T).sum(1)
    actual = mlkd_loss(*case, alpha=1.0, temperatures=[3.0], **weighted(0, 1, 0), reduction="none")
    np.testing.assert_allclose(actual, rows, atol=1e-12)


@pytest.mark.parametrize(("samples", "classes"), [(8, 100), (100, 8)])
def test_a_student_close_to_its_teacher_does_not_drown_in_rounding(make_case, samples, classes):
    """In float32 the Gram matrices agree to seven digits, and their difference would be noise."""
    case = make_case(samples=samples, classes=classes, dtype=torch.float32)
    near = case.teacher + 1e-3 * case.student
    for weights in ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0)):
        expected = references.mlkd(
            near.double().numpy(), case.teacher.double().numpy(), TEMPERATURES, weights
        )
        actual = mlkd_loss(near, case.teacher, alpha=1.0, **weighted(*weights))
        assert math.isclose(actual, expected, rel_tol=1e-3)


def test_logit_standardization_leaves_the_relations_alone(case):
    arrays = [x.numpy() for x in case[:2]]
    expected = references.mlkd(*map(references.standardized, arrays), TEMPERATURES, (1, 0, 0))
    expected += references.mlkd(*arrays, TEMPERATURES, (0, 1, 1))
    assert math.isclose(mlkd_loss(*case, alpha=1.0, logit_standardization=True), expected, rel_tol=1e-10)


def test_one_sample_has_a_relation_to_itself(make_case):
    case = make_case(samples=1)
    arrays = [x.numpy() for x in case[:2]]
    expected = references.mlkd(*arrays, TEMPERATURES, (1, 1, 1))
    assert math.isclose(mlkd_loss(*case, alpha=1.0), expected, rel_tol=1e-10)


def test_module_equals_function_and_shows_its_options(case):
    options = {
        "alpha": 0.5,
        "temperatures": [1.0, 4.0],
        **weighted(1.0, 0.5, 2.0),
        "logit_standardization": True,
        "reduction": "sum",
    }
    distill = MLKDLoss(**options)
    assert torch.equal(distill(*case), mlkd_loss(*case, **options))
    assert distill.options == options
    assert distill.task_weight == 0.5
    assert MLKDLoss(alpha=9.0).task_weight == 0.1


@pytest.mark.parametrize(
    "temperatures", [(2, 4), np.array([2.0, 4.0]), torch.tensor([2.0, 4.0]), range(2, 5, 2)]
)
def test_temperatures_are_any_numbers_in_a_row(temperatures, make_case):
    case = make_case()
    expected = mlkd_loss(*case, temperatures=[2.0, 4.0])
    torch.testing.assert_close(mlkd_loss(*case, temperatures=temperatures), expected)
    torch.testing.assert_close(MLKDLoss(temperatures=temperatures)(*case), expected)


def test_bad_options_are_named_when_the_module_is_made():
    with pytest.raises(InputError, match=r"temperatures is empty"):
        MLKDLoss(temperatures=[])
    for given in (4.0, np.float64(4.0), np.array(4.0), iter([4.0])):
        with pytest.raises(InputError, match=r"temperatures is .*: give a list of numbers"):
            MLKDLoss(temperatures=given)
    with pytest.raises(InputError, match=r"temperatures is empty"):
        MLKDLoss(temperatures=np.array([]))
    with pytest.raises(InputError, match=r"temperatures is 0\.0.*positive"):
        MLKDLoss(temperatures=[4.0, 0.0])
    for name in ("alpha", "instance_weight", "batch_weight", "class_weight"):
        with pytest.raises(InputError, match=rf"{name} is -2\.0"):
            MLKDLoss(**{name: -2.0})

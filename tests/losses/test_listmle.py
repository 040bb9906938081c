import itertools
import math

import numpy as np
import pytest
import torch

from cmkd.errors import InputError
from cmkd.losses import ListMLELoss, listmle, listmle_loss
from tests.losses import references


@pytest.mark.parametrize("tied", [False, True])
def test_equals_the_product_of_chances(make_case, tied):
    case = make_case(samples=6, classes=9)
    student, teacher = case.student, case.teacher.round() if tied else case.teacher
    assert (len(teacher[0].unique()) < 9) == tied
    actual = listmle_loss(student, teacher, alpha=0.5, reduction="none")
    arrays = student.numpy(), teacher.numpy()
    np.testing.assert_allclose(actual, 0.5 * references.listmle(*arrays), atol=1e-11)

    parameter = student.clone().requires_grad_()
    listmle_loss(parameter, teacher, alpha=0.5).backward()
    slope = references.gradient(lambda s: 0.5 * references.listmle(s, arrays[1]).mean(), arrays[0])
    np.testing.assert_allclose(parameter.grad, slope, atol=1e-8)


def test_the_orders_share_one_probability(make_case):
    """The chances of all orders that a teacher of four classes can have sum to 1."""
    student = make_case(samples=1, classes=4).student
    orders = torch.tensor(list(itertools.permutations([1.0, 2.0, 3.0, 4.0])), dtype=torch.float64)
    losses = listmle_loss(student.expand(24, 4), orders, alpha=1.0, reduction="none")
    assert math.isclose((-losses).exp().sum(), 1.0, rel_tol=1e-12)


def test_by_hand():
    # Chances (1, 2, 4) / 7, teacher's order 2, 0, 1: 4/7 of the first, then 1/3 of those left.
    student = torch.tensor([[0.0, math.log(2), math.log(4)]])
    loss = listmle_loss(student, torch.tensor([[2.0, 1.0, 3.0]]), alpha=1.0)
    assert math.isclose(loss, -math.log(4 / 7 / 3), rel_tol=1e-6)


def test_the_order_in_which_tied_classes_are_stored_does_not_count(make_case):
    student, teacher, _ = make_case(classes=30)
    shuffled = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    teacher = teacher.round()
    expected = listmle_loss(student, teacher)
    torch.testing.assert_close(listmle_loss(student[:, shuffled], teacher[:, shuffled]), expected)


def test_a_constant_teacher_draws_to_the_uniform_distribution(case):
    student = torch.full_like(case.student, 3.0).requires_grad_()
    loss = listmle_loss(student, torch.ones_like(student), alpha=1.0)
    loss.backward()
    assert math.isclose(loss.detach(), 10 * math.log(10), rel_tol=1e-12)
    torch.testing.assert_close(student.grad, torch.zeros_like(student))
    assert listmle_loss(case.student, torch.ones_like(student), alpha=1.0) > 10 * math.log(10)


@pytest.mark.parametrize("size", [100.0, 1e4])
def test_huge_gaps_cost_their_size(size):
    """exp(-10,000) is nothing in any precision, but its logarithm is."""
    student = torch.tensor([[0.0, -size, -2 * size]], requires_grad=True)
    right, wrong = torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[1.0, 2.0, 3.0]])
    assert listmle_loss(student, right, alpha=1.0) == 0.0
    loss = listmle_loss(student, wrong, alpha=1.0)
    loss.backward()
    assert math.isclose(loss.detach(), 3 * size, rel_tol=1e-6)
    torch.testing.assert_close(student.grad, torch.tensor([[2.0, -1.0, -1.0]]))


@pytest.mark.parametrize("span", [0.0, 600.0])
def test_both_ways_to_sum_up_are_exact(make_case, monkeypatch, span):
    """The rest after the hundredth class is a millionth of the whole, and its logarithm counts as much."""
    monkeypatch.setattr(listmle, "_SPAN", span)
    case = make_case(classes=100, dtype=torch.float32)
    student = (10 * case.student).requires_grad_()
    arrays = student.detach().double().numpy(), case.teacher.double().numpy()
    actual = listmle_loss(student, case.teacher, alpha=1.0, reduction="none")
    np.testing.assert_allclose(actual.detach(), references.listmle(*arrays), rtol=1e-6)

    (slope,) = torch.autograd.grad(actual.sum(), student)
    row = references.gradient(lambda s: references.listmle(s, arrays[1][:1]).sum(), arrays[0][:1])
    np.testing.assert_allclose(slope[:1], row, atol=1e-5)


def test_module_equals_function_and_shows_its_options(case):
    options = {"alpha": 4.0, "logit_standardization": True, "reduction": "sum"}
    distill = ListMLELoss(**options)
    assert torch.equal(distill(*case), listmle_loss(*case, **options))
    assert repr(distill) == "ListMLELoss(alpha=4.0, logit_standardization=True, reduction='sum')"
    assert distill.task_weight == 1.0


def test_bad_options_are_named_when_the_module_is_made():
    with pytest.raises(InputError, match=r"alpha is -1\.0"):
        ListMLELoss(alpha=-1.0)
    with pytest.raises(InputError, match=r"unknown reduction"):
        listmle_loss(torch.zeros(1, 3), torch.zeros(1, 3), reduction="all")

import numpy as np
import pytest
import torch
from scipy import stats

from cmkd.errors import InputError
from cmkd.losses import KendallLoss, kendall, kendall_loss
from tests.losses import references


@pytest.mark.parametrize("steepness", [0.3, 1.0, 5.0])
def test_equals_the_sum_over_pairs(case, steepness):
    student, teacher = case.student.numpy(), case.teacher.numpy()
    actual = kendall_loss(*case, alpha=2.0, steepness=steepness, reduction="none")
    np.testing.assert_allclose(actual, 2 * (1 - references.kendall(student, teacher, steepness)), atol=1e-12)

    parameter = case.student.clone().requires_grad_()
    kendall_loss(parameter, case.teacher, alpha=2.0, steepness=steepness).backward()
    slope = references.gradient(lambda s: 2 * (1 - references.kendall(s, teacher, steepness)).mean(), student)
    np.testing.assert_allclose(parameter.grad, slope, atol=1e-8)


def test_is_kendalls_tau_where_it_is_steep(case):
    expected = [
        1 - stats.kendalltau(s, t).statistic
        for s, t in zip(case.student.numpy(), case.teacher.numpy(), strict=True)
    ]
    actual = kendall_loss(*case, alpha=1.0, steepness=1e9, reduction="none")
    np.testing.assert_allclose(actual, expected, atol=1e-12)


@pytest.mark.parametrize("limit", [1, 7, 60, 400, 10**6])
@pytest.mark.parametrize("width", [1, 4, 32])
def test_blocks_change_nothing(make_case, monkeypatch, limit, width):
    monkeypatch.setattr(kendall, "CHUNK", limit)
    monkeypatch.setattr(kendall, "_BLOCK", width)
    case = make_case(samples=5, classes=11)
    parameter = case.student.clone().requires_grad_()
    loss = kendall_loss(parameter, case.teacher, alpha=1.0)
    loss.backward()
    student, teacher = case.student.numpy(), case.teacher.numpy()
    assert loss.item() == pytest.approx(1 - references.kendall(student, teacher, 1.0).mean(), abs=1e-12)
    signs = [np.tanh(x[:, :, None] - x[:, None, :]) for x in (student, teacher)]
    slope = -2 / (11 * 10 * 5) * ((1 - signs[0] ** 2) * signs[1]).sum(2)
    np.testing.assert_allclose(parameter.grad, slope, atol=1e-12)


@pytest.mark.parametrize(("samples", "classes"), [(256, 1000), (1, 21841), (7, 10)])
def test_blocks_are_small_and_cover_every_class_once(samples, classes):
    limit, seen = 2**18, np.zeros((samples, classes), dtype=np.int8)
    for rows, block in kendall._blocks(samples, classes, limit):
        seen[rows, block] += 1
        assert (rows.stop - rows.start) * (block.stop - block.start) * (classes - block.start) <= limit
    assert (seen == 1).all()


def test_second_derivatives_and_repeated_backward_passes(make_case):
    case = make_case(samples=2, classes=5)
    student = case.student.requires_grad_()
    torch.autograd.gradgradcheck(lambda s: kendall_loss(s, case.teacher), student)
    loss = kendall_loss(student, case.teacher)
    first, second = (torch.autograd.grad(loss, student, retain_graph=True)[0].clone() for _ in range(2))
    assert torch.equal(first, second)


def test_func_sees_the_formula(case):
    def loss(student, teacher):
        return kendall_loss(student[None], teacher[None])

    slopes = torch.func.vmap(torch.func.grad(loss))(case.student, case.teacher)
    student = case.student.clone().requires_grad_()
    kendall_loss(student, case.teacher, reduction="sum").backward()
    torch.testing.assert_close(slopes, student.grad)


def test_constant_rows(case):
    """A constant teacher teaches nothing; a constant student learns the order from any other."""
    student = case.student.clone().requires_grad_()
    loss = kendall_loss(student, torch.ones_like(case.teacher), alpha=3.0)
    loss.backward()
    assert loss == 3.0
    assert (student.grad == 0).all()
    flat = torch.zeros_like(case.student).requires_grad_()
    loss = kendall_loss(flat, case.teacher, alpha=3.0)
    loss.backward()
    assert loss == 3.0
    for slope, row in zip(flat.grad, case.teacher, strict=True):
        assert torch.equal(slope.argsort(descending=True), row.argsort())


def test_module_equals_function_and_shows_its_options(case):
    options = {"alpha": 4.0, "steepness": 2.0, "logit_standardization": True, "reduction": "sum"}
    distill = KendallLoss(**options)
    assert torch.equal(distill(*case), kendall_loss(*case, **options))
    assert repr(distill) == (
        "KendallLoss(alpha=4.0, steepness=2.0, logit_standardization=True, reduction='sum')"
    )
    assert distill.task_weight == 1.0


def test_bad_options_are_named_when_the_module_is_made():
    with pytest.raises(InputError, match=r"steepness is 0\.0.*positive"):
        KendallLoss(steepness=0.0)
    with pytest.raises(InputError, match=r"alpha is -1\.0"):
        KendallLoss(alpha=-1.0)
    with pytest.raises(InputError, match=r"unknown reduction"):
        KendallLoss(reduction="all")

import math

import numpy as np
import pytest
import torch
from torch import nn

from cmkd.errors import InputError
from cmkd.losses import CTKDLoss, ctkd_loss, kd_loss
from tests.losses import references


@pytest.mark.parametrize("temperature", [1.0, 4.0, 21.0])
def test_equals_scipy(case, temperature):
    student, teacher = case.student.numpy(), case.teacher.numpy()
    t = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    actual = ctkd_loss(*case, temperature=t, alpha=0.7, reduction="none")
    np.testing.assert_allclose(actual.detach(), references.kd(student, teacher, temperature, 0.7), atol=1e-11)
    parameter = case.student.clone().requires_grad_()
    ctkd_loss(parameter, *case[1:], temperature=t, alpha=0.7).backward()
    by_student = references.gradient(lambda s: references.kd(s, teacher, temperature, 0.7).mean(), student)
    np.testing.assert_allclose(parameter.grad, by_student, atol=1e-8)
    by_temperature = references.gradient(
        lambda x: references.kd(student, teacher, x[0], 0.7).mean(), np.array([temperature])
    )
    np.testing.assert_allclose(t.grad, by_temperature[0], atol=1e-8)


def test_begins_as_published(case):
    """T = 1 + 20 sigmoid(1)."""
    temperature = 1 + 20 / (1 + math.exp(-1))
    distill = CTKDLoss()
    assert math.isclose(distill.temperature, temperature, rel_tol=1e-6)
    torch.testing.assert_close(distill(*case), kd_loss(*case, temperature=distill.temperature.item()))
    assert distill.task_weight == pytest.approx(0.1)
    assert CTKDLoss(alpha=9.0, logit_standardization=True).task_weight == 0.1


def slope_of_theta(distill, case):
    (slope,) = torch.autograd.grad(distill(*case), distill.theta)
    return slope.item()


@pytest.mark.parametrize(
    ("epoch", "strength"), [(0.0, 0.0), (2.5, (1 - 2**-0.5) / 2), (5.0, 0.5), (10.0, 1.0), (200.0, 1.0)]
)
def test_the_reversed_gradient_grows_over_ten_epochs(case, epoch, strength):
    distill = CTKDLoss().double()

    def loss_at(theta):
        other = CTKDLoss().double()
        nn.init.constant_(other.theta, theta[0])
        return other(*case).item()

    true = references.gradient(loss_at, np.array([1.0]))[0]
    assert abs(true) > 1e-4
    value = distill(*case)
    distill.set_epoch(epoch)
    assert torch.equal(distill(*case), value)
    assert slope_of_theta(distill, case) == pytest.approx(-strength * true, rel=1e-5, abs=1e-12)


def test_without_epochs_there_is_no_curriculum(case):
    distill, late = CTKDLoss(), CTKDLoss()
    late.set_epoch(100)
    assert slope_of_theta(distill, case) == slope_of_theta(late, case) != 0
    at_once = CTKDLoss(curriculum_epochs=0.0)
    at_once.set_epoch(0.0)
    assert slope_of_theta(at_once, case) == slope_of_theta(late, case)


def test_a_step_down_the_gradient_raises_the_loss_by_the_temperature(case):
    distill = CTKDLoss()
    before = distill(*case)
    before.backward()
    with torch.no_grad():
        distill.theta -= 10.0 * distill.theta.grad  # a step of SGD
    assert distill(*case) > before + 1e-3
    assert 1 < distill.temperature < 21


def test_a_resumed_run_goes_on_with_its_temperature(case):
    distill, other = CTKDLoss(), CTKDLoss()
    nn.init.constant_(distill.theta, -0.3)
    other.load_state_dict(distill.state_dict())
    for each in (distill, other):
        each.set_epoch(3.25)
    assert torch.equal(distill(*case), other(*case))
    assert slope_of_theta(distill, case) == slope_of_theta(other, case)


def test_compiled_it_follows_the_epoch_without_being_compiled_again(case):
    distill = CTKDLoss()
    compilations = []

    def backend(graph, inputs):
        compilations.append(graph)
        return graph

    compiled = torch.compile(distill, backend=backend, fullgraph=True)
    for epoch in (1.0, 4.0):
        distill.set_epoch(epoch)
        (slope,) = torch.autograd.grad(compiled(*case), distill.theta)
        assert slope.item() == pytest.approx(slope_of_theta(distill, case), rel=1e-5)
    assert len(compilations) == 1


@pytest.mark.parametrize("scale", [0.0, 1e4, 1e30, 1e37])
def test_the_temperature_always_has_a_finite_gradient(make_case, scale):
    case = make_case(classes=100, dtype=torch.float32)
    distill = CTKDLoss()
    distill(case.student * scale, case.teacher * scale, case.target).backward()
    assert distill.theta.grad.isfinite().all()


def test_module_equals_function_and_shows_its_options(case):
    distill = CTKDLoss(alpha=0.5, tau_init=2.0, tau_range=6.0, logit_standardization=True, reduction="sum")
    expected = ctkd_loss(
        *case, temperature=distill.temperature, alpha=0.5, logit_standardization=True, reduction="sum"
    )
    assert torch.equal(distill(*case), expected)
    assert distill.temperature == 2 + 6 * torch.ones(()).sigmoid()
    assert repr(distill) == (
        "CTKDLoss(alpha=0.5, tau_init=2.0, tau_range=6.0, curriculum_epochs=10.0,"
        " logit_standardization=True, reduction='sum')"
    )


@pytest.mark.parametrize("name", ["alpha", "tau_init", "tau_range", "curriculum_epochs"])
def test_bad_options_are_named_when_the_module_is_made(name):
    with pytest.raises(InputError, match=rf"{name} is -1\.0"):
        CTKDLoss(**{name: -1.0})

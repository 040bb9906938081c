import pytest
import torch
import torch.nn.functional as F

from cmkd.errors import InputError
from cmkd.losses import CELoss
from cmkd.training.objective import Objective


def test_the_objective_is_the_cross_entropy_and_so_is_its_gradient(make_case):
    student, teacher, target = make_case(samples=4, classes=6, dtype=torch.float32)
    student = student.detach().requires_grad_()
    loss, parts = Objective(CELoss())(student, teacher, target)
    (gradient,) = torch.autograd.grad(loss, student)
    expected = F.cross_entropy(student, target)
    (expected_gradient,) = torch.autograd.grad(expected, student)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, expected_gradient)
    assert parts["distillation"] == 0


def test_every_reduction_is_zero_with_its_shape():
    logits = torch.randn(2, 5, 3)
    assert CELoss()(logits, logits) == 0
    assert torch.equal(CELoss(reduction="none")(logits, logits), torch.zeros(2, 3))


def test_what_does_not_fit_is_refused_as_everywhere():
    with pytest.raises(InputError, match="10 classes, student 5"):
        CELoss()(torch.randn(2, 5), torch.randn(2, 10))

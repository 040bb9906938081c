import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import softmax

from cmkd.errors import InputError
from cmkd.losses import CMKDLoss, PearsonLoss, dist_loss, pearson_loss
from tests.losses import references

INPUTS = {
    "zscore": lambda x: softmax(stats.zscore(x, axis=1) / 2, axis=1),
    "softmax": lambda x: softmax(x / 2, axis=1),
    "logits": lambda x: x,
}


@pytest.mark.parametrize("kind", INPUTS)
def test_equals_scipy(case, kind):
    student, teacher = case.student.numpy(), case.teacher.numpy()

    def reference(s):
        return 3 * references.dist_terms(INPUTS[kind](s), INPUTS[kind](teacher))[0]

    actual = pearson_loss(*case, alpha=3.0, tau=2.0, pearson_input=kind, reduction="none")
    np.testing.assert_allclose(actual, reference(student), atol=1e-11)

    parameter = case.student.clone().requires_grad_()
    pearson_loss(parameter, case.teacher, alpha=3.0, tau=2.0, pearson_input=kind).backward()
    slope = references.gradient(lambda s: reference(s).mean(), student)
    np.testing.assert_allclose(parameter.grad, slope, atol=1e-8)


@pytest.mark.parametrize("kind", INPUTS)
def test_is_cmkd_without_ranks(case, kind):
    cmkd = CMKDLoss(difficulty="constant", constant_weight=0.0, pearson_input=kind)
    torch.testing.assert_close(PearsonLoss(pearson_input=kind)(*case), cmkd(*case))


def test_is_the_inter_class_part_of_dist(case):
    dist = dist_loss(*case, tau=4.0, alpha=1.0, gamma=0.0)
    torch.testing.assert_close(pearson_loss(*case, alpha=16.0, tau=4.0, pearson_input="softmax"), dist)


def test_module_equals_function_and_shows_its_options(case):
    options = {"alpha": 4.0, "tau": 2.0, "pearson_input": "softmax", "reduction": "sum"}
    distill = PearsonLoss(**options)
    assert torch.equal(distill(*case), pearson_loss(*case, **options))
    assert repr(distill) == "PearsonLoss(alpha=4.0, tau=2.0, pearson_input='softmax', reduction='sum')"
    assert distill.task_weight == 1.0


def test_bad_options_are_named_when_the_module_is_made():
    with pytest.raises(InputError, match=r"tau is 0\.0"):
        PearsonLoss(tau=0.0)
    with pytest.raises(InputError, match=r"alpha is -1\.0"):
        PearsonLoss(alpha=-1.0)
    with pytest.raises(InputError, match=r"unknown pearson_input 'ranks'"):
        PearsonLoss(pearson_input="ranks")

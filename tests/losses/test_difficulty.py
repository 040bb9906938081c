import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit

from cmkd.errors import InputError
from cmkd.losses.difficulty import difficulty_weight, sample_difficulty
from tests.losses import references


@pytest.mark.parametrize("tau", [1.0, 0.3])
def test_entropies_equal_scipy(case, tau):
    for measure, logits in (("teacher_entropy", case.teacher), ("student_entropy", case.student)):
        actual = sample_difficulty(case.student, case.teacher, None, measure=measure, tau=tau)
        np.testing.assert_allclose(actual, references.normalized_entropy(logits.numpy(), tau), atol=1e-12)


def test_cross_entropy_of_the_teacher_equals_scipy(case):
    actual = sample_difficulty(case.student, case.teacher, case.target, measure="teacher_ce", tau=1.0)
    expected = references.normalized_cross_entropy(case.teacher.numpy(), case.target.numpy())
    assert (expected == 1).any()
    assert (expected < 1).any()
    np.testing.assert_allclose(actual, expected, atol=1e-12)


def test_uniform_is_hardest():
    flat = torch.zeros(1, 5)
    assert sample_difficulty(flat, flat, None, measure="teacher_entropy", tau=1.0) == 1.0


def test_entropy_separates_samples_that_plain_softmax_calls_certain():
    """Both rows are one-hot to a plain softmax in float32; only the first is alone at the top."""
    teacher = torch.tensor([[300.0, 0.0, 0.0, 0.0], [300.0, 180.0, 0.0, 0.0]])
    assert torch.equal(teacher.softmax(1)[:, 0], torch.ones(2))
    easy, hard = sample_difficulty(teacher, teacher, None, measure="teacher_entropy", tau=1.0)
    assert hard - easy > 0.05


def test_missing_target_is_named(case):
    with pytest.raises(InputError, match=r"'teacher_ce'.*target is None.*'teacher_entropy'"):
        sample_difficulty(case.student, case.teacher, None, measure="teacher_ce", tau=1.0)


def test_no_gradient(case):
    student, teacher = (x.clone().requires_grad_() for x in case[:2])
    difficulty = sample_difficulty(student, teacher, None, measure="student_entropy", tau=1.0)
    assert not difficulty.requires_grad
    assert not difficulty_weight(difficulty.requires_grad_(), "batch_standardize").requires_grad


def test_batch_rank_equals_scipy_and_has_mean_one_half():
    d = torch.tensor([0.9, 0.95, 0.9, 0.2, 0.99], dtype=torch.float64)
    weight = difficulty_weight(d, "batch_rank")
    np.testing.assert_allclose(weight, (stats.rankdata(d) - 0.5) / 5, atol=1e-12)
    assert weight.mean() == 0.5


def test_batch_standardize_equals_scipy():
    d = torch.tensor([0.9, 0.95, 0.9, 0.2, 0.99], dtype=torch.float64)
    np.testing.assert_allclose(difficulty_weight(d, "batch_standardize"), expit(stats.zscore(d)), atol=1e-12)


def test_raw_scale_keeps_the_values():
    d = torch.tensor([0.9, 0.2])
    assert torch.equal(difficulty_weight(d, "none"), d)


@pytest.mark.parametrize("scale", ["batch_rank", "batch_standardize"])
@pytest.mark.parametrize("values", [[0.7], [0.7, 0.7, 0.7]])
def test_nothing_to_compare_gives_one_half(scale, values):
    assert difficulty_weight(torch.tensor(values), scale).tolist() == [0.5] * len(values)

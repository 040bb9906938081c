import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import softmax

from cmkd import functional
from cmkd.errors import InputError
from cmkd.losses import CMKDLoss, CMKDParts, cmkd_loss
from tests.losses import references


@pytest.mark.parametrize(
    ("classes", "softness", "knots"), [(10, None, 9), (30, None, 21), (500, None, 65), (10, 0.5, 5)], ids=str
)
def test_default_terms_equal_scipy(make_case, classes, softness, knots):
    case = make_case(classes=classes)
    values, ranks = references.cmkd_terms(case.student.numpy(), case.teacher.numpy(), knots)
    difficulty = references.normalized_entropy(case.teacher.numpy())
    weight = (stats.rankdata(difficulty) - 0.5) / len(difficulty)

    parts = cmkd_loss(*case, rank_softness=softness, reduction="none", parts=True)
    np.testing.assert_allclose(parts.pearson, values, atol=1e-10)
    np.testing.assert_allclose(parts.spearman, ranks, atol=1e-10)
    np.testing.assert_allclose(parts.difficulty, difficulty, atol=1e-10)
    np.testing.assert_allclose(parts.weight, weight, atol=1e-10)
    np.testing.assert_allclose(parts.loss, 32 * ((1 - weight) * values + weight * ranks), atol=1e-9)
    assert parts.intra == 0


@pytest.mark.parametrize("pearson_input", ["zscore", "softmax", "logits"])
def test_pearson_input_and_intra_class_term(case, pearson_input):
    tau = 2.0
    inputs = {
        "zscore": lambda x: softmax(stats.zscore(x, axis=1) / tau, axis=1),
        "softmax": lambda x: softmax(x / tau, axis=1),
        "logits": lambda x: x,
    }[pearson_input]
    inter, intra = references.dist_terms(inputs(case.student.numpy()), inputs(case.teacher.numpy()))
    parts = cmkd_loss(
        *case,
        alpha=3.0,
        tau=tau,
        pearson_input=pearson_input,
        difficulty="constant",
        constant_weight=0.0,
        intra_weight=0.5,
        parts=True,
    )
    np.testing.assert_allclose(parts.pearson, inter, atol=1e-10)
    np.testing.assert_allclose(parts.intra, intra, atol=1e-10)
    np.testing.assert_allclose(parts.loss, 3 * (inter.mean() + 0.5 * intra), atol=1e-10)


@pytest.mark.parametrize("method", ["laplace", "binned", "l2"])
def test_sharp_rank_makes_the_spearman_term_one_minus_rho(case, method):
    parts = cmkd_loss(*case, rank_method=method, rank_softness=1e-4, parts=True)
    expected = [1 - stats.spearmanr(s, t).statistic for s, t in zip(case.student, case.teacher, strict=True)]
    np.testing.assert_allclose(parts.spearman, expected, atol=1e-6)


def test_by_hand():
    # The rows are reversed: r of the ranks is -1, and so is that of the logits. Weight 1/4 to the ranking.
    student, teacher = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[3.0, 2.0, 1.0]])
    options = {"pearson_input": "logits", "difficulty": "constant", "constant_weight": 0.25}
    loss = cmkd_loss(student, teacher, alpha=1.0, pearson_weight=2.0, spearman_weight=3.0, **options)
    assert math.isclose(loss, 2 * 0.75 * 2 + 3 * 0.25 * 2, rel_tol=1e-5)
    independent = cmkd_loss(student, teacher, alpha=1.0, combination="independent", **options)
    assert math.isclose(independent, 2 + 0.25 * 2, rel_tol=1e-5)


@pytest.mark.parametrize("measure", ["teacher_entropy", "student_entropy", "teacher_ce"])
def test_direction_swaps_the_weights(case, measure):
    straight = cmkd_loss(*case, difficulty=measure, parts=True)
    reversed_ = cmkd_loss(*case, difficulty=measure, hard_samples="values", parts=True)
    torch.testing.assert_close(straight.weight + reversed_.weight, torch.ones(7, dtype=torch.float64))
    assert torch.equal(straight.difficulty, reversed_.difficulty)
    hardest, easiest = straight.difficulty.argmax(), straight.difficulty.argmin()
    assert straight.weight[hardest] > straight.weight[easiest]


def test_difficulty_measures_and_scales_are_passed_on(case):
    student, teacher, target = (x.numpy() for x in case)
    raw = {"difficulty_scale": "none", "parts": True}
    np.testing.assert_allclose(
        cmkd_loss(*case, difficulty="student_entropy", **raw).weight, references.normalized_entropy(student)
    )
    np.testing.assert_allclose(
        cmkd_loss(*case, difficulty="teacher_ce", **raw).weight,
        references.normalized_cross_entropy(teacher, target),
        atol=1e-12,
    )
    scaled = cmkd_loss(*case, difficulty_scale="batch_standardize", parts=True).weight
    np.testing.assert_allclose(
        scaled, 1 / (1 + np.exp(-stats.zscore(references.normalized_entropy(teacher)))), atol=1e-12
    )


def test_constant_weight_ignores_scale_and_direction(case):
    parts = cmkd_loss(*case, difficulty="constant", constant_weight=0.3, hard_samples="values", parts=True)
    assert parts.weight.tolist() == parts.difficulty.tolist() == [0.3] * 7


def test_default_weights_are_spread_for_a_certain_teacher(make_case):
    """The raw entropy of z-scored logits puts every sample near 1: the reason for the default scale.

    And the reason to look at the difficulty itself: the weights are spread whether it differs or not.
    """
    case = make_case(samples=64, classes=100)
    parts = cmkd_loss(case.student, case.teacher, parts=True)
    difficulty = references.normalized_entropy(case.teacher.numpy())
    np.testing.assert_allclose(parts.difficulty, difficulty, atol=1e-12)
    assert difficulty.min() > 0.8
    assert np.ptp(difficulty) < 0.1
    np.testing.assert_allclose(parts.weight, (stats.rankdata(difficulty) - 0.5) / 64, atol=1e-12)


@pytest.mark.parametrize("classes", [10, 100, 1000])
@pytest.mark.parametrize("method", ["laplace", "binned", "l2"])
def test_ranking_pulls_elsewhere_than_values(make_case, classes, method):
    """With default softness the Spearman term is no second Pearson term."""
    case = make_case(samples=32, classes=classes, dtype=torch.float32)

    def gradient(weight, **options):
        student = case.student.clone().requires_grad_()
        constant = {"difficulty": "constant", "constant_weight": weight}
        cmkd_loss(student, case.teacher, **constant, **options).backward()
        return student.grad.flatten()

    ranking = gradient(1.0, rank_method=method)
    assert torch.cosine_similarity(ranking, gradient(0.0), dim=0) < 0.9
    assert torch.cosine_similarity(ranking, gradient(0.0, pearson_input="logits"), dim=0) < 0.95


def test_one_block_pulls_exactly_as_pearson_on_ranks_does(make_case):
    """The control to the test above: what a degenerate Spearman term does."""
    case = make_case(samples=8, classes=30)
    student = case.student.clone().requires_grad_()
    options = {"difficulty": "constant", "constant_weight": 1.0, "alpha": 1.0}
    with pytest.warns(UserWarning, match="second Pearson term"):
        cmkd_loss(student, case.teacher, rank_method="l2", rank_softness=5e4, **options).backward()
    actual, student.grad = student.grad, None
    (1 - functional.pearson(student, functional.exact_rank(case.teacher))).mean().backward()
    torch.testing.assert_close(actual, student.grad, atol=1e-7, rtol=1e-3)


def test_descent_teaches_the_order(make_case):
    case = make_case(samples=16, classes=20, dtype=torch.float32)
    student = case.student.clone().requires_grad_()
    before = functional.spearman(student, case.teacher).mean()
    for _ in range(100):
        loss = cmkd_loss(student, case.teacher, alpha=1.0, reduction="sum")
        (slope,) = torch.autograd.grad(loss, student)
        student = (student - 5 * slope).detach().requires_grad_()
    assert before < 0.3
    assert functional.spearman(student, case.teacher).mean() > 0.9


def test_parts_are_consistent(make_case):
    case = make_case(positions=(2, 3))
    distill = CMKDLoss(intra_weight=0.2)
    parts = distill(*case, parts=True)
    assert isinstance(parts, CMKDParts)
    torch.testing.assert_close(parts.loss, distill(*case))
    for name in ("pearson", "spearman", "weight", "difficulty"):
        assert getattr(parts, name).shape == (7, 2, 3)
    mixed = (1 - parts.weight) * parts.pearson + parts.weight * parts.spearman
    torch.testing.assert_close(parts.loss, 32 * (mixed.mean() + 0.2 * parts.intra))


def test_parts_are_detached_but_the_loss_is_not(case):
    parts = cmkd_loss(case.student.requires_grad_(), case.teacher, intra_weight=1.0, parts=True)
    assert [part.requires_grad for part in parts] == [True, False, False, False, False, False]


def test_module_equals_function_and_shows_its_options(case):
    options = {
        "alpha": 2.0,
        "tau": 0.5,
        "pearson_input": "softmax",
        "rank_method": "binned",
        "rank_softness": 0.2,
        "difficulty": "teacher_ce",
        "difficulty_scale": "batch_standardize",
        "hard_samples": "values",
        "constant_weight": 0.1,
        "combination": "independent",
        "pearson_weight": 0.3,
        "spearman_weight": 0.4,
        "intra_weight": 0.6,
        "reduction": "sum",
    }
    distill = CMKDLoss(**options)
    assert torch.equal(distill(*case), cmkd_loss(*case, **options))
    shown = ", ".join(f"{name}={value!r}" for name, value in options.items())
    assert repr(distill) == f"CMKDLoss({shown})"
    assert distill.task_weight == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -1.0}, r"alpha is -1\.0.*at least 0"),
        ({"tau": 0.0}, r"tau is 0\.0.*positive"),
        ({"pearson_input": "zscor"}, r"unknown pearson_input 'zscor'; did you mean 'zscore'"),
        ({"rank_method": "sigmoid"}, r"unknown rank_method 'sigmoid'.*binned"),
        ({"rank_softness": 0.0}, r"rank_softness is 0\.0.*positive"),
        ({"difficulty": "entropy"}, r"unknown difficulty 'entropy'.*'teacher_entropy'"),
        ({"difficulty_scale": "rank"}, r"unknown difficulty_scale 'rank'.*'batch_rank'"),
        ({"hard_samples": "rank"}, r"unknown hard_samples 'rank'; did you mean 'ranks'"),
        ({"constant_weight": 1.5}, r"constant_weight is 1\.5.*at most 1"),
        ({"combination": "sum"}, r"unknown combination 'sum'"),
        ({"intra_weight": math.inf}, r"intra_weight is inf"),
        ({"reduction": "None"}, r"unknown reduction 'None'; did you mean 'none'"),
        ({"pearson_weight": 0.0, "spearman_weight": 0.0}, r"nothing is left to learn"),
        (
            {"difficulty": "constant", "constant_weight": 1.0, "spearman_weight": 0.0},
            r"constant_weight 1 leaves no share.*spearman_weight 0\).*nothing is left to learn",
        ),
        (
            {"difficulty": "constant", "constant_weight": 0.0, "pearson_weight": 0.0},
            r"constant_weight 0 leaves no share.*nothing is left to learn",
        ),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        CMKDLoss(**options)
    with pytest.raises(InputError, match=message):
        cmkd_loss(torch.zeros(1, 3), torch.zeros(1, 3), **options)


def test_teacher_ce_needs_the_target(case):
    with pytest.raises(InputError, match=r"'teacher_ce'.*target is None"):
        CMKDLoss(difficulty="teacher_ce")(case.student, case.teacher)


@pytest.mark.parametrize(
    "options",
    [
        {"constant_weight": 1.0, "spearman_weight": 0.0, "combination": "independent"},
        {"constant_weight": 1.0, "pearson_weight": 0.0},
        {"constant_weight": 0.0, "spearman_weight": 0.0},
        {"constant_weight": 1.0, "spearman_weight": 0.0, "intra_weight": 0.5},
    ],
)
def test_one_term_alone_is_something_to_learn(case, options):
    student = case.student.requires_grad_()
    cmkd_loss(student, case.teacher, difficulty="constant", **options).backward()
    assert student.grad.abs().sum() > 0


def test_alpha_zero_switches_the_term_off(case):
    assert CMKDLoss(alpha=0.0)(*case) == 0


@pytest.mark.parametrize("classes", [100, 1000])
@pytest.mark.parametrize("method", ["laplace", "binned", "l2"])
def test_constant_logits_have_exactly_no_correlation(make_case, method, classes):
    """What a zero-initialised head gives at step 0."""
    case = make_case(samples=4, classes=classes, dtype=torch.float32)
    for constant in (0.0, 0.1):
        parts = cmkd_loss(
            torch.full_like(case.student, constant), case.teacher, rank_method=method, parts=True
        )
        assert (parts.spearman == 1).all()
        assert (parts.pearson == 1).all()

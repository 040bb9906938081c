"""Finite input gives a finite gradient, and but for divergences near the end of float32 a finite loss."""

import warnings

import pytest
import torch

from cmkd.losses import CMKDLoss, DISTLoss, DKDLoss, KDLoss, PearsonLoss, SpearmanLoss, available

LOSSES = {
    **{name: kind() for name, kind in available().items() if kind.reads_teacher},
    "laplace": CMKDLoss(rank_method="laplace", intra_weight=1.0),
    "binned": CMKDLoss(rank_method="binned", pearson_input="softmax", difficulty="student_entropy"),
    "l2": CMKDLoss(rank_method="l2", pearson_input="logits", difficulty_scale="batch_standardize"),
    "teacher_ce": CMKDLoss(difficulty="teacher_ce", difficulty_scale="none", combination="independent"),
    "kd standardized": KDLoss(temperature=2.0, alpha=9.0, logit_standardization=True),
    "kd cold": KDLoss(temperature=0.1),
    "dkd standardized": DKDLoss(logit_standardization=True),
}
# Correlations are between -1 and 1, and those with a constant are 0, without gradient.
CORRELATIONS = (CMKDLoss, DISTLoss, PearsonLoss, SpearmanLoss)
losses = pytest.mark.parametrize("distill", LOSSES.values(), ids=LOSSES)


def masked(x):
    x = x.clone()
    x[:, : x.shape[1] // 2] = -1e4
    return x


def wide(x):
    """Rows across the whole floating range."""
    x = x.clone()
    x[:, 0], x[:, 1] = torch.finfo(x.dtype).max, -torch.finfo(x.dtype).max
    return x


INPUTS = {
    "random": lambda s, t: (s, t),
    "student constant": lambda s, t: (torch.full_like(s, 7.3), t),
    "teacher constant": lambda s, t: (s, torch.full_like(t, -0.1)),
    "all zero": lambda s, t: (s * 0, t * 0),
    "one row constant": lambda s, t: (torch.cat([s[:1] * 0, s[1:]]), t),
    "same rows": lambda s, t: (s[:1].expand_as(s), t[:1].expand_as(t)),
    "same networks": lambda s, t: (t, t),
    "masked alike": lambda s, t: (masked(s), masked(t)),
    "masked apart": lambda s, t: (masked(s), masked(t.flip(1)).flip(1)),
    "1e30": lambda s, t: (s * 1e30, t * 1e30),
    "1e37": lambda s, t: (s * 1e37, t * 1e37),
    "1e-20": lambda s, t: (s * 1e-20, t * 1e-20),
    "1e-30": lambda s, t: (s * 1e-30, t * 1e-30),
    "1e-34": lambda s, t: (s * 1e-34, t * 1e-34),  # the gradient of a z-score is near its largest here
    "1e-37": lambda s, t: (s * 1e-37, t * 1e-37),  # counts as constant
    "wide": lambda s, t: (wide(s), t),
    "wide apart": lambda s, t: (wide(s), wide(t).flip(1)),
    "one sample": lambda s, t: (s[:1], t[:1]),
    "tied": lambda s, t: (s.round(), t.round()),
}


# The divergence of logits as far apart as these is itself beyond float32, and comes out as infinity.
OVERFLOWING = {"1e37", "wide", "wide apart"}


@losses
@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_everything_stays_finite(distill, classes, make_case):
    grows = not isinstance(distill, CORRELATIONS) and not distill.logit_standardization
    case = make_case(samples=4, classes=classes, dtype=torch.float32)
    for name, change in INPUTS.items():
        student, teacher = change(case.student, case.teacher)
        student = student.clone().requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # two classes
            loss = distill(student, teacher, case.target[: len(student)])
        loss.backward()
        assert loss.isfinite() or (grows and name in OVERFLOWING and loss == torch.inf), name
        assert student.grad.isfinite().all(), name


@losses
def test_constant_rows_learn_unless_it_takes_a_correlation_or_a_z_score(distill, make_case):
    """What a zero-initialised head gives at step 0; cross-entropy moves it off there."""
    case = make_case(samples=4, dtype=torch.float32)
    student = torch.zeros_like(case.student, requires_grad=True)
    distill(student, case.teacher, case.target).backward()
    standardized = getattr(distill, "logit_standardization", False)
    moves = not isinstance(distill, CORRELATIONS) and not standardized
    assert bool(student.grad.abs().sum() > 0) == moves


@losses
def test_two_classes_have_a_defined_result(distill, make_case):
    case = make_case(classes=2, dtype=torch.float32)
    student = case.student.requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        loss = distill(student, case.teacher, case.target)
    loss.backward()
    assert loss >= 0
    if isinstance(distill, CMKDLoss) and not distill.intra_weight:
        torch.testing.assert_close(student.grad, torch.zeros_like(student), atol=1e-4, rtol=0)


@losses
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(distill, dtype, make_case):
    case = make_case(classes=300, dtype=torch.float32)
    student, teacher = (x.to(dtype).requires_grad_() for x in case[:2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = distill(student, teacher, case.target)
    assert loss.dtype == torch.float32
    expected = distill(student.double(), teacher.double(), case.target)
    torch.testing.assert_close(loss.double(), expected, atol=1e-3, rtol=1e-4)
    loss.backward()
    assert student.grad.dtype == dtype
    assert student.grad.isfinite().all()


@losses
def test_float64_stays_float64_and_mixed_input_takes_the_wider(distill, case):
    assert distill(*case).dtype == torch.float64
    assert distill(case.student.float(), case.teacher, case.target).dtype == torch.float64
    assert distill(case.student.half(), case.teacher.float(), case.target).dtype == torch.float32


@losses
def test_rows_do_not_depend_on_memory_layout(distill, make_case):
    case = make_case(samples=3, classes=6, positions=(2, 4))
    strided = [x.to(memory_format=torch.channels_last) for x in case[:2]]
    torch.testing.assert_close(distill(*strided, case.target), distill(*case))

"""The Triton kernels against their definition in float64. Runs in Triton's interpreter, on the CPU.

That has to be chosen before Triton is imported, so `test_triton.py` runs this file in a process of its own.
"""

import os

import numpy as np
import pytest
import torch

from cmkd.functional import entropy, exact_rank, log_probabilities, pearson, soft_rank, standardize
from cmkd.kernels.triton_check import self_check
from cmkd.kernels.triton_rows import RowLoss, cmkd_rows, spearman_rows, supported

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="run by test_triton.py")


def definition(student, teacher, *, knots, tau=1.0, mask=None, weight="batch_rank", flip=False, convex=True):
    student, teacher = student.detach().double().requires_grad_(), teacher.double()
    mask = None if mask is None else mask.expand(student.shape)
    softness = 2 / (knots - 1)
    values = (probabilities(x, tau, mask) for x in (student, teacher))
    p = 1 - pearson(*values, mask=mask)
    rank = soft_rank(student, method="binned", softness=softness, mask=mask)
    s = 1 - pearson(rank, exact_rank(teacher, mask=mask), mask=mask)
    count = torch.tensor(float(student.shape[1])) if mask is None else mask.sum(1).double()
    hardness = entropy(standardize(teacher, mask=mask), temperature=tau, mask=mask) / count.log()
    w = weight
    if isinstance(weight, str):
        w = (exact_rank(hardness) - 0.5) / len(hardness) if weight == "batch_rank" else hardness
    w = 1 - w if flip else w
    combined = (1 - w if convex else 1) * p + w * s
    combined.sum().backward()
    return RowLoss(
        *(x.detach() for x in (combined, combined.sum(), p, s, torch.as_tensor(w), hardness)), student.grad
    )


def probabilities(x, tau, mask):
    p = log_probabilities(standardize(x, mask=mask), temperature=tau, mask=mask).exp()
    return p if mask is None else p * mask


def rows(samples, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(samples, classes, generator=generator)
    return student, 0.5 * student + torch.randn(samples, classes, generator=generator)


def check(got, wanted, *, value=2e-6, slope=2e-5):
    for name in ("combined", "total", "pearson", "spearman", "weight", "hardness"):
        ours = getattr(got, name)
        if ours is not None:
            assert (ours - getattr(wanted, name)).abs().max() <= value * max(1, wanted.combined.numel()), name
    size = wanted.grad.abs().amax(1, keepdim=True).clamp(min=1e-6)
    assert ((got.grad - wanted.grad).abs() / size).max() <= slope


SHAPES = [(6, 3, 9), (9, 10, 9), (3, 33, 33), (3, 100, 33), (2, 150, 2), (1, 1000, 33)]


@pytest.mark.parametrize(("samples", "classes", "knots"), SHAPES)
def test_equals_the_definition(samples, classes, knots):
    case = rows(samples, classes)
    check(cmkd_rows(*case, knots=knots, tau=1.5), definition(*case, knots=knots, tau=1.5))


@pytest.mark.parametrize("tau", [0.05, 100.0])
def test_extreme_temperatures(tau):
    """With a given weight: float32 cannot rank entropies that are all within 1e-4 of log C."""
    case = rows(3, 40)
    options = {"knots": 9, "tau": tau, "weight": torch.full((3,), 0.4)}
    check(cmkd_rows(*case, **options), definition(*case, **options), slope=1e-4)


@pytest.mark.parametrize(("classes", "knots"), [(1500, 33), (5000, 65)])
def test_long_rows_differ_by_the_bins_of_the_teacher_alone(classes, knots):
    student, teacher = rows(3, classes)
    teacher[1] = torch.from_numpy(np.random.default_rng(0).standard_cauchy(classes)) + student[1]
    teacher[2] = teacher[2].clamp(min=0.0)
    got, wanted = cmkd_rows(student, teacher, knots=knots), definition(student, teacher, knots=knots)
    check(got, wanted, value=1e-4, slope=2e-3)
    torch.testing.assert_close(got.pearson.double(), wanted.pearson, atol=2e-6, rtol=0)


def test_two_classes_have_no_gradient():
    student, teacher = rows(4, 2)
    got = cmkd_rows(student, teacher, knots=9)
    order = (student[:, 0] > student[:, 1]) == (teacher[:, 0] > teacher[:, 1])
    torch.testing.assert_close(got.spearman, torch.where(order, 0.0, 2.0))
    torch.testing.assert_close(got.pearson, torch.where(order, 0.0, 2.0))
    assert got.grad.abs().max() < 1e-5


@pytest.mark.parametrize(
    ("classes", "shared"),
    [(10, True), (10, False), (60, False), (520, False), (1500, True), (1500, False)],
)
def test_masked_columns_do_not_exist(classes, shared):
    samples = 1 if classes == 520 else 2
    student, teacher = rows(samples, classes)
    mask = (student[0] if shared else student) > -1.0
    mask[..., :3] = True
    student.masked_fill_(~mask, float("nan"))
    teacher.masked_fill_(~mask, float("inf"))
    got = cmkd_rows(student, teacher, knots=33, mask=mask)
    long = {"value": 1e-4, "slope": 2e-3} if classes > 1024 else {}
    check(got, definition(student, teacher, knots=33, mask=mask), **long)
    assert (got.grad[~mask.expand(samples, classes)] == 0).all()


@pytest.mark.parametrize("classes", [10, 1500])
def test_fewer_than_two_valid_classes(classes):
    student, teacher = rows(3, classes)
    mask = torch.ones(3, classes, dtype=torch.bool)
    mask[0] = False
    mask[1, 1:] = False
    got = cmkd_rows(student, teacher, knots=9, mask=mask)
    assert got.spearman[:2].tolist() == got.pearson[:2].tolist() == [1.0, 1.0]
    assert (got.grad[:2] == 0).all()
    assert all(x.isfinite().all() for x in got)


@pytest.mark.parametrize("classes", [12, 600, 1200])
def test_ties(classes):
    student, teacher = (x.mul(2).round() for x in rows(1, classes))
    got, wanted = cmkd_rows(student, teacher, knots=33), definition(student, teacher, knots=33)
    check(got, wanted, value=1e-5, slope=1e-4)


@pytest.mark.parametrize("classes", [10, 1500])
def test_rows_without_a_correlation_leave_the_others_alone(classes):
    student, teacher = rows(7, classes)
    clean = cmkd_rows(student[5:], teacher[5:], knots=33, weight=torch.full((2,), 0.3))
    student[0], teacher[1] = 2.0, 0.0
    student[2, 1], teacher[3, -1] = float("nan"), -float("inf")
    teacher[4, 0] = student[4, 0] = float("inf")
    got = cmkd_rows(student, teacher, knots=33, weight=torch.full((7,), 0.3))
    assert got.pearson[:5].tolist() == got.spearman[:5].tolist() == [1.0] * 5
    assert (got.grad[:5] == 0).all()
    assert torch.equal(got.grad[5:], clean.grad)
    assert torch.equal(got.combined[5:], clean.combined)
    assert cmkd_rows(student, teacher, knots=33).weight.isfinite().all()


@pytest.mark.parametrize("classes", [10, 1500])
@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_size_does_not_matter(classes, size):
    student, teacher = rows(2, classes)
    plain = definition(student, teacher, knots=9)
    got = cmkd_rows(student * size, teacher * size, knots=9)
    got = got._replace(grad=got.grad.double() * size)
    long = {"value": 1e-4, "slope": 2e-3} if classes > 1024 else {}
    check(got, plain, **long)


@pytest.mark.parametrize("classes", [20, 1100])
@pytest.mark.parametrize(("dtype", "slope"), [(torch.bfloat16, 8e-3), (torch.float16, 5e-5)])
def test_half_precision_is_computed_in_float32(classes, dtype, slope):
    student, teacher = (x.to(dtype) for x in rows(3, classes))
    got = cmkd_rows(student, teacher, knots=33)
    value, slope = (2e-6, slope) if classes <= 1024 else (1e-4, slope + 2e-3)
    check(got, definition(student, teacher, knots=33), value=value, slope=slope)
    assert got.grad.dtype == (torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)


@pytest.mark.parametrize("classes", [10, 1100])
def test_weights_and_factors(classes):
    student, teacher = rows(4, classes)
    long = {"value": 1e-4, "slope": 2e-3} if classes > 1024 else {}
    given = torch.tensor([0.0, 0.2, 0.7, 1.0])
    for options in ({"weight": given}, {"weight": "none"}, {"flip": True}, {"convex": False}):
        check(
            cmkd_rows(student, teacher, knots=9, **options),
            definition(student, teacher, knots=9, **options),
            **long,
        )
    options = {"weight": given, "pearson_weight": 2.0, "spearman_weight": 0.5, "scale": 8}
    got = cmkd_rows(student, teacher, knots=9, **options)
    torch.testing.assert_close(got.combined, 8 * (2 * (1 - given) * got.pearson + 0.5 * given * got.spearman))
    both = cmkd_rows(student, teacher, knots=9, value_weight=given.flip(0), **options)
    torch.testing.assert_close(
        both.combined, 8 * (2 * given.flip(0) * got.pearson + 0.5 * given * got.spearman)
    )
    # Linear in the two weights: what the terms alone have for a gradient adds up to that of both.
    value, rank = (cmkd_rows(student, teacher, knots=9, weight=w).grad for w in (given * 0, given * 0 + 1))
    v, w = 16 * given.flip(0).unsqueeze(1), 4 * given.unsqueeze(1)
    torch.testing.assert_close(both.grad, v * value + w * rank, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("classes", [10, 1100])
def test_spearman_alone(classes):
    case = rows(3, classes)
    got = spearman_rows(*case, knots=9)
    wanted = definition(*case, knots=9, weight=torch.ones(3))
    long = {"value": 1e-4, "slope": 2e-3} if classes > 1024 else {}
    check(got, wanted._replace(weight=None), **long)


def test_equal_teachers_share_their_weight():
    student, teacher = rows(4, 10)
    teacher[2] = teacher[0]
    weight = cmkd_rows(student, teacher, knots=9).weight
    assert weight[2] == weight[0]
    torch.testing.assert_close(weight.mean(), torch.tensor(0.5))


@pytest.mark.parametrize("classes", [10, 1100])
def test_reads_a_slice_of_wider_rows(classes):
    wide_student, wide_teacher = rows(3, classes + 5)
    student, teacher = wide_student[:, 2:-3], wide_teacher[:, 1:-4]
    assert supported(student, teacher, knots=9)
    got = cmkd_rows(student, teacher, knots=9)
    again = cmkd_rows(student.contiguous(), teacher.contiguous(), knots=9)
    assert torch.equal(got.grad, again.grad)


def test_what_is_not_supported():
    x = torch.zeros(4, 10)
    assert supported(x, x, knots=9)
    assert supported(x, x.bfloat16(), knots=65, mask=torch.ones(10, dtype=torch.bool))
    assert not supported(x.double(), x, knots=9)
    assert not supported(x, x, knots=66)
    assert not supported(x[:, :1], x[:, :1], knots=9)
    assert not supported(torch.zeros(10, 4).T, x, knots=9)
    assert not supported(x, x, knots=9, mask=torch.ones(10))
    assert not supported(x, x, knots=9, mask=torch.ones(4, 1, dtype=torch.bool))


@pytest.mark.parametrize("classes", [20, 1100])
@pytest.mark.parametrize("masked", [False, True])
def test_the_check_passes(classes, masked, recwarn):
    assert self_check(torch.zeros(1, classes), knots=17, masked=masked, reference=definition)
    assert not [warning for warning in recwarn if warning.category is UserWarning]


def test_the_check_warns_once_of_a_wrong_result():
    def wrong(student, teacher, *, knots, mask):
        right = definition(student, teacher, knots=knots, mask=mask)
        return right._replace(grad=-right.grad)

    case = torch.zeros(1, 5)
    with pytest.warns(UserWarning, match=r"differ from pure torch by 200 times.*cpu, Triton \d.*5 classes"):
        assert not self_check(case, knots=5, masked=False, reference=wrong)
    assert not self_check(case, knots=5, masked=False, reference=wrong)


def test_the_check_warns_of_an_error():
    def failing(student, teacher, *, knots, mask):
        raise RuntimeError("no such device")

    with pytest.warns(UserWarning, match="raise RuntimeError: no such device"):
        assert not self_check(torch.zeros(1, 6), knots=6, masked=False, reference=failing)

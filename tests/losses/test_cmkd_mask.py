"""CMKD on the valid classes alone, and on logits that cannot be looked at."""

import pytest
import torch

from cmkd.errors import InputError
from cmkd.losses import CMKDLoss, cmkd_loss

OPTIONS = {
    "default": {},
    "laplace": {"rank_method": "laplace"},
    "l2": {"rank_method": "l2"},
    "probabilities": {"pearson_input": "softmax", "tau": 2.0, "difficulty": "student_entropy"},
    "logits": {
        "pearson_input": "logits",
        "difficulty": "teacher_ce",
        "difficulty_scale": "batch_standardize",
    },
    "intra-class": {"intra_weight": 0.5, "combination": "independent", "difficulty_scale": "none"},
}


def loss_and_slope(student, teacher, target, **options):
    student = student.clone().requires_grad_()
    parts = cmkd_loss(student, teacher, target, parts=True, **options)
    (slope,) = torch.autograd.grad(parts.loss, student)
    return parts, slope


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("filler", [torch.nan, torch.inf, -1e4])
def test_equals_the_loss_of_the_valid_columns(make_case, options, dtype, filler):
    student, teacher, target = make_case(classes=12, positions=(2,), dtype=dtype)
    mask = torch.ones(12, dtype=torch.bool)
    mask[[10, 11]] = False
    target = target.clamp(max=9)
    options = {"rank_softness": 0.5, **options}
    expected, expected_slope = loss_and_slope(student[:, :10], teacher[:, :10], target, **options)
    filled = [torch.where(mask[:, None], x, filler) for x in (student, teacher)]
    parts, slope = loss_and_slope(*filled, target, mask=mask, **options)
    for part, wanted in zip(parts, expected, strict=True):
        torch.testing.assert_close(part, wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(slope[:, :10], expected_slope, atol=1e-4, rtol=1e-3)
    assert (slope[:, 10:] == 0).all()


def test_a_mask_per_sample_equals_the_samples_alone(make_case):
    student, teacher, _ = make_case(classes=12)
    mask = torch.rand(7, 12, generator=torch.Generator().manual_seed(0)) > 0.4
    options = {"rank_softness": 0.5, "difficulty_scale": "none"}
    distill = CMKDLoss(reduction="none", **options)
    losses = distill(student, teacher, mask=mask)
    for n, valid in enumerate(mask):
        torch.testing.assert_close(
            losses[n], cmkd_loss(student[n, valid][None], teacher[n, valid][None], **options)
        )


def test_samples_with_fewer_than_two_valid_classes_teach_nothing(make_case):
    student, teacher, _ = make_case(dtype=torch.float32)
    mask = torch.ones(7, 10, dtype=torch.bool)
    mask[0] = False
    mask[1, 1:] = False
    parts, slope = loss_and_slope(student, teacher, None, mask=mask)
    assert (parts.pearson[:2] == 1).all()
    assert (parts.spearman[:2] == 1).all()
    assert (parts.difficulty[:2] == 1).all()
    assert (slope[:2] == 0).all()
    assert (slope[2:] != 0).any(1).all()


@pytest.mark.parametrize("who", ["student", "teacher"])
@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
@pytest.mark.parametrize("options", [options for name, options in OPTIONS.items() if name != "l2"])
def test_nan_and_infinity(make_case, who, value, options):
    """An error where looking costs nothing; else, as while it is compiled, their row counts as constant."""
    student, teacher, target = make_case(dtype=torch.float32)
    spoilt = {"student": student, "teacher": teacher}[who]
    spoilt[2, 4] = value
    with pytest.raises(InputError, match=f"{who} logits hold NaN or infinity in 1 of 70 places"):
        cmkd_loss(student, teacher, target, **options)

    def parts_of(student, teacher):
        return cmkd_loss(student, teacher, target, parts=True, **options)

    student.requires_grad_()
    parts = torch.compile(parts_of, backend="eager", fullgraph=True)(student, teacher)
    (slope,) = torch.autograd.grad(parts.loss, student)
    assert all(part.isfinite().all() for part in parts)
    assert parts.pearson[2] == parts.spearman[2] == 1
    assert slope.isfinite().all()
    assert (slope[2] == 0).all() or "intra_weight" in options  # which compares columns
    others = [0, 1, 3, 4, 5, 6]
    clean = cmkd_loss(student[others], teacher[others], target[others], parts=True, **options)
    torch.testing.assert_close(parts.pearson[others], clean.pearson, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(parts.spearman[others], clean.spearman, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(10), r"mask has dtype torch\.float32: pass a bool tensor"),
        (torch.ones(7, dtype=torch.bool), r"mask has shape \(7,\).*\(10,\), for all samples, or \(7, 10\)"),
        (torch.ones(1, 10, dtype=torch.bool), r"mask has shape \(1, 10\)"),
        (torch.ones(10, dtype=torch.bool, device="meta"), "mask is on meta, logits on cpu"),
    ],
)
def test_bad_masks_are_named(case, mask, message):
    with pytest.raises(InputError, match=message):
        cmkd_loss(case.student, case.teacher, mask=mask)

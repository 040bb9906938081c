"""The losses by the Triton kernels against the same losses in float64. Runs in Triton's interpreter.

That has to be chosen before Triton is imported, so `test_triton.py` runs this file in a process of its own.
"""

import os
import warnings

import pytest
import torch

from cmkd.functional import fused_triton, spearman_loss
from cmkd.kernels import native, switch, triton_check
from cmkd.losses import CMKDLoss

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="run by test_triton.py")


@pytest.fixture(autouse=True)
def _by_triton(monkeypatch):
    monkeypatch.setattr(fused_triton, "INTERPRETED", True)
    monkeypatch.setattr(native, "available", lambda: False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # of the check
        yield


@pytest.fixture
def calls(monkeypatch):
    """Names of the ways by which Triton was reached."""
    found = []
    for name in ("compute_terms", "whole_loss"):
        original = getattr(fused_triton, name)

        def spy(*args, name=name, original=original, **kwargs):
            found.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(fused_triton, name, spy)
    return found


def logits(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def both(loss, student, teacher, target, mask=None):
    """Return loss, gradient and second derivative of float32 (Triton) and of float64 (the definition)."""
    results = []
    for dtype in (torch.float32, torch.float64):
        x = student.to(dtype).requires_grad_()
        value = loss(x, teacher.to(dtype), target, mask=mask)
        (grad,) = torch.autograd.grad(value.sum(), x, retain_graph=True)
        (twice,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(twice.square().sum(), x)
        results.append((value.detach().double(), grad.double(), curvature.double()))
    return results


CASES = {
    "default": ({}, "whole_loss"),
    "none": ({"reduction": "none", "difficulty_scale": "none"}, "whole_loss"),
    "sum, flipped": ({"reduction": "sum", "hard_samples": "values", "spearman_weight": 0.3}, "whole_loss"),
    "independent": ({"combination": "independent", "tau": 2.0, "pearson_weight": 0.7}, "whole_loss"),
    "teacher_ce": ({"difficulty": "teacher_ce"}, "compute_terms"),
    "intra": ({"intra_weight": 0.5}, "compute_terms"),
    "logits": ({"pearson_input": "logits"}, "compute_terms"),
}


@pytest.mark.parametrize(("options", "way"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("masked", [False, True])
def test_cmkd(options, way, masked, calls):
    student, teacher = logits(4, 12, seed=0), logits(4, 12, seed=1)
    target = torch.tensor([1, 0, 2, 1])
    mask = logits(4, 12, seed=2) > -0.7 if masked else None
    if masked:
        mask[:, :3] = True
    found, wanted = both(CMKDLoss(alpha=2.0, **options), student, teacher, target, mask)
    assert set(calls) == {way}
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=2e-3)


@pytest.mark.parametrize("mask", [None, torch.arange(7) < 5])
def test_positions_and_parts(mask, calls):
    student, teacher = logits(2, 7, 3, seed=0), logits(2, 7, 3, seed=1)
    distill = CMKDLoss()
    parts = distill(student, teacher, mask=mask, parts=True)
    wide = distill(student.double(), teacher.double(), mask=mask, parts=True)
    assert calls == ["whole_loss"]
    for a, b in zip(parts, wide, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a.double(), b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("classes", [12, 1100])
def test_spearman_loss(classes, calls):
    student, teacher = logits(3, classes, seed=0), logits(3, classes, seed=1)

    def loss(student, teacher, target, mask):
        return spearman_loss(student, teacher, mask=mask, reduction="none")

    found, wanted = both(loss, student, teacher, None)
    assert set(calls) == {"compute_terms"}
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-2)


def test_nan_in_a_row_leaves_the_others_alone(monkeypatch):
    """On CPU it is an error before Triton sees it; on CUDA nobody looks."""
    monkeypatch.setattr("cmkd.functional.logits._check_values", lambda *_: None)
    student, teacher = logits(4, 12, seed=0), logits(4, 12, seed=1)
    teacher[1, 2], student[2, 3] = torch.nan, torch.inf
    student.requires_grad_()
    parts = CMKDLoss()(student, teacher, parts=True)
    parts.loss.backward()
    assert parts.pearson[1] == parts.spearman[1] == parts.pearson[2] == parts.spearman[2] == 1
    assert (student.grad[1:3] == 0).all()
    assert student.grad.isfinite().all()
    assert parts.loss.isfinite()
    assert (student.grad[[0, 3]] != 0).any(1).all()


def test_kernels_that_compute_nonsense_are_not_used(monkeypatch, calls):
    monkeypatch.setattr(triton_check, "_passed", {})
    monkeypatch.setattr(triton_check, "_difference", lambda *_: 7.0)
    student, teacher = logits(4, 12, seed=0), logits(4, 12, seed=1)
    with pytest.warns(
        UserWarning, match="differ from pure torch by 7 times the tolerance.*pure torch is used"
    ):
        loss = CMKDLoss()(student, teacher)
    torch.testing.assert_close(
        loss.double(), CMKDLoss()(student.double(), teacher.double()), atol=1e-4, rtol=1e-4
    )
    assert calls == []


@pytest.mark.parametrize("classes", [12, 1100])
def test_a_batch_too_large_to_be_ranked_by_a_kernel(classes, monkeypatch, calls):
    monkeypatch.setattr("cmkd.kernels.triton_launch.MOST_RANKED", 5)
    student, teacher = logits(6, classes, seed=0), logits(6, classes, seed=1)
    found, wanted = both(CMKDLoss(), student, teacher, None)
    assert set(calls) == {"whole_loss"}
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=1e-2)


def test_can_be_switched_off(calls):
    student, teacher = logits(4, 12, seed=0), logits(4, 12, seed=1)
    with switch.disabled():
        CMKDLoss()(student, teacher)
    assert calls == []

"""The check of the Triton kernels with the definition in their place, so without Triton or a GPU."""

import warnings

import pytest
import torch

from cmkd.functional.fused_triton import _reference
from cmkd.kernels import triton_check


@pytest.fixture(autouse=True)
def _definition_as_kernels(monkeypatch):
    monkeypatch.setattr(triton_check, "_passed", {})
    monkeypatch.setattr(
        triton_check, "cmkd_rows", lambda student, teacher, **options: _reference(student, teacher, **options)
    )


def passes(reference=_reference):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        like = torch.zeros(1, 10, device="cpu")
        return triton_check.self_check(like, knots=9, masked=True, reference=reference)


def test_in_inference_mode():
    with torch.inference_mode():
        assert passes()
        assert torch.is_inference_mode_enabled()


def test_where_tensors_are_made_on_another_device():
    try:
        torch.set_default_device("meta")
        assert passes()
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize("warn_only", [False, True])
def test_in_deterministic_mode(warn_only):
    modes = []

    def reference(student, teacher, *, knots, mask):
        modes.append(torch.are_deterministic_algorithms_enabled())
        return _reference(student, teacher, knots=knots, mask=mask)

    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    try:
        assert passes(reference)
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled() == warn_only
    finally:
        torch.use_deterministic_algorithms(False)
    assert modes == [False]

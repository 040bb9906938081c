"""When the Triton kernels are taken, asked without them: no Triton, no GPU."""

import pytest
import torch

from cmkd.functional import fused_triton
from cmkd.functional.definition import TermOptions
from cmkd.functional.logits import as_rows
from cmkd.kernels import triton_check, triton_rows


@pytest.fixture(autouse=True)
def _as_if_there_were_a_gpu(monkeypatch):
    monkeypatch.setattr(fused_triton, "INTERPRETED", True)
    monkeypatch.setattr(triton_rows, "_has_triton", lambda: True)
    monkeypatch.setattr(triton_rows, "_can_run", lambda device: True)
    monkeypatch.setattr(triton_check, "self_check", lambda *_, **__: True)


def usable(student, teacher, mask=None):
    return fused_triton.usable(student, teacher, TermOptions(), mask)


@pytest.mark.parametrize("mask", [None, (1, 20, 1, 1), (4, 20, 1, 1), (4, 20, 64, 64)])
def test_asking_copies_no_logits(mask):
    student, teacher = torch.randn(4, 20, 64, 64), torch.randn(4, 20, 64, 64)
    mask = None if mask is None else torch.ones(mask, dtype=torch.bool)
    with torch.profiler.profile(profile_memory=True) as profile:
        assert usable(student, teacher, mask)
    taken = sum(max(event.self_cpu_memory_usage, 0) for event in profile.key_averages())
    assert taken < student.numel()  # bytes


def test_what_is_not_for_the_kernels_is_told_without_the_rows():
    x = torch.randn(4, 20, 8)
    assert usable(x, x)
    assert usable(x.bfloat16(), x.half())
    assert not usable(x.double(), x)
    assert not usable(x[:, :1], x[:, :1])
    assert usable(x[..., 0].contiguous(), x[..., 0].contiguous())
    assert not usable(x[..., 0], x[..., 0])  # (N, C) with gaps between the classes


@pytest.mark.parametrize("change", [lambda x: x, lambda x: x.mT.contiguous().mT, lambda x: x.mT[..., ::2].mT])
def test_the_rows_that_are_launched_have_no_gaps(change):
    x = change(torch.randn(4, 20, 8))
    rows = fused_triton._packed(x)
    assert rows.stride(1) == 1
    assert torch.equal(rows, as_rows(x))

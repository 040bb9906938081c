"""The compiled kernels against SciPy and against the definition in float64."""

import contextlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats

from cmkd.functional import soft_rank
from cmkd.functional.definition import TermOptions
from cmkd.functional.fused import correlation_terms, normalized_entropy
from cmkd.kernels import compiling, native, switch

pytestmark = pytest.mark.skipif(not native.available(), reason=f"no compiled kernels: {native.describe()}")
methods = pytest.mark.parametrize("method", ["laplace", "binned", "l2"])


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


ROWS = {
    "normal": lambda x: x,
    "tied": lambda x: (x * 2).round(),
    "outlier": lambda x: torch.cat([x[:, :-1], torch.full_like(x[:, :1], -1e4)], 1),
    "two values": lambda x: x.sign(),
    "huge": lambda x: x * 1e30,
    "tiny": lambda x: x * 1e-30,
    "constant": lambda x: x[:, :1].expand_as(x),
    "whole range": lambda x: torch.cat([x[:, :-2], torch.tensor([[3.4e38, -3.4e38]]).expand(len(x), 2)], 1),
    "signed zeros": lambda x: torch.where(x > 0, 0.0, -0.0),
}
rows = pytest.mark.parametrize("change", ROWS.values(), ids=ROWS)
# Of a size at which the soft ranks of float32 count a row as constant, and those of float64 do not.
SUBNORMAL = {"subnormal": lambda x: x * 1e-40}


@pytest.mark.parametrize("change", [*ROWS.values(), *SUBNORMAL.values()], ids=[*ROWS, *SUBNORMAL])
@pytest.mark.parametrize("classes", [2, 3, 33, 128, 129, 1000, 5000])
def test_exact_ranks_equal_scipy(change, classes):
    """Around the length up to which all pairs are compared; with buckets, and with the radix sort."""
    x = change(normal(3, classes))
    np.testing.assert_array_equal(native.exact_rank(x), stats.rankdata(x, axis=1))
    np.testing.assert_array_equal(
        native.exact_rank(x.bfloat16()), stats.rankdata(x.bfloat16().double(), axis=1)
    )


def test_exact_rank_of_infinities_and_of_nan():
    x = torch.tensor([[1.0, torch.inf, -torch.inf, torch.inf], [1.0, torch.nan, 0.0, 2.0]])
    ranks = native.exact_rank(x)
    assert ranks[0].tolist() == [2, 3.5, 1, 3.5]
    assert ranks[1].isnan().all()


@methods
@rows
@pytest.mark.parametrize("classes", [3, 40, 300])
def test_soft_ranks_and_their_gradient_equal_the_definition(method, change, classes):
    x, slope = change(normal(3, classes)).clone(), normal(3, classes, seed=1)
    x.requires_grad_()
    value = soft_rank(x, method=method)
    (grad,) = torch.autograd.grad(value, x, slope)
    wide = x.detach().double().requires_grad_()
    expected = soft_rank(wide, method=method)
    torch.testing.assert_close(value.double(), expected, atol=2e-5 * classes, rtol=1e-5)
    (slope_expected,) = torch.autograd.grad(expected, wide, slope.double())
    scale = slope_expected.abs().max().clamp(min=1e-37)
    # Where a value sits on a knot or at the edge of a block, rounding decides on which side.
    agrees = (grad - slope_expected).abs() <= 1e-3 * scale
    assert agrees.double().mean() >= 0.98
    assert grad.isfinite().all()


@methods
def test_subnormal_rows_count_as_constant(method):
    x = (normal(3, 40) * 1e-40).requires_grad_()
    value = soft_rank(x, method=method)
    assert (value == 20.5).all()
    (grad,) = torch.autograd.grad(value, x, normal(3, 40, seed=1))
    assert (grad == 0).all()


@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_raw_strength_equals_the_definition(strength):
    x = normal(4, 50) * 3 + 100
    with switch.disabled():
        expected = soft_rank(x.double(), method="l2", strength=strength)
    torch.testing.assert_close(
        soft_rank(x, method="l2", strength=strength).double(), expected, atol=1e-4, rtol=1e-5
    )


def terms_of(student, teacher, method, mask, weights):
    student = student.clone().requires_grad_()
    values, ranks = weights
    terms = correlation_terms(
        student,
        teacher,
        value_weight=values,
        rank_weight=ranks,
        options=TermOptions(method, 0.2, 1.5),
        mask=mask,
        per_sample=True,
    )
    terms.loss.sum().backward()
    return [
        terms.loss.detach(),
        terms.pearson,
        terms.spearman,
        normalized_entropy(teacher, tau=1.5, mask=mask),
    ], student.grad


@methods
@pytest.mark.parametrize("shape", [(5, 12), (3, 200), (2, 9, 3, 4)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("by", ["kernels", "chunks"])
def test_terms_and_their_gradient_equal_the_definition_in_float64(method, shape, masked, by, monkeypatch):
    monkeypatch.setattr(
        "cmkd.functional.chunks.CHUNK", 60
    )  # less than a row, some rows, part of the positions
    student, teacher = normal(*shape), normal(*shape, seed=1)
    mask = normal(*shape, seed=2) > -0.5 if masked else None
    weights = (normal(shape[0], *shape[2:], seed=3).abs(), normal(shape[0], *shape[2:], seed=4).abs())
    with switch.disabled() if by == "chunks" else contextlib.nullcontext():
        terms, grad = terms_of(student, teacher, method, mask, weights)
    expected, expected_grad = terms_of(student.double(), teacher.double(), method, mask, weights)
    for term, wanted in zip(terms, expected, strict=True):
        torch.testing.assert_close(term.double(), wanted, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(grad.double(), expected_grad, atol=2e-4, rtol=1e-3)


@methods
def test_any_layout_gives_the_same_bits(method):
    x, teacher = normal(4, 6, 3, 5), normal(4, 6, 3, 5, seed=1)
    weights = (torch.rand(4, 3, 5), torch.rand(4, 3, 5))
    expected = terms_of(x, teacher, method, None, weights)
    for change in (
        lambda t: t.to(memory_format=torch.channels_last),
        lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
        lambda t: torch.stack([t, t], -1)[..., 0],
    ):
        terms, grad = terms_of(change(x), change(teacher), method, None, weights)
        assert all(torch.equal(a, b) for a, b in zip(terms, expected[0], strict=True))
        assert torch.equal(grad, expected[1])


@methods
def test_the_number_of_threads_does_not_change_a_bit(method):
    student, teacher = normal(64, 2000), normal(64, 2000, seed=1)
    weights = (torch.rand(64), torch.rand(64))
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(terms_of(student, teacher, method, None, weights))
    finally:
        torch.set_num_threads(threads)
    for terms, grad in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(terms, results[0][0], strict=True))
        assert torch.equal(grad, results[0][1])


@methods
def test_half_precision_input(method):
    student, teacher = normal(4, 100).bfloat16(), normal(4, 100, seed=1).bfloat16()
    weights = (torch.rand(4), torch.rand(4))
    terms, grad = terms_of(student, teacher, method, None, weights)
    expected, expected_grad = terms_of(student.double(), teacher.double(), method, None, weights)
    assert grad.dtype == torch.bfloat16
    for term, wanted in zip(terms, expected, strict=True):
        torch.testing.assert_close(term.double(), wanted, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(grad.double(), expected_grad, atol=1e-4, rtol=0.01)


def test_only_plain_float_tensors_on_cpu_are_taken():
    x = torch.randn(2, 5)
    assert native.usable(x, x.bfloat16(), mask=x > 0)
    assert not native.usable(x > 0)
    assert not native.usable(x.double())
    assert not native.usable(x.half())
    assert not native.usable(x.to("meta"))
    assert not native.usable(x.to_sparse())
    assert not native.usable(torch.nested.nested_tensor([x, x], layout=torch.jagged))
    with switch.disabled():
        assert not native.usable(x)


PROGRAM = """
import logging, sys, torch
logging.basicConfig(level="INFO", stream=sys.stdout)
from cmkd.functional import exact_rank
from cmkd.kernels import native
print(exact_rank(torch.tensor([3.0, 1.0, 2.0])).tolist(), native.describe())
"""


def run(folder, **environment):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "XDG_CACHE_HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "[3.0, 1.0, 2.0]" in done.stdout
    return done.stdout


def test_compiles_once_and_replaces_a_broken_file(tmp_path):
    assert "compiled C" in run(tmp_path)
    (library,) = (tmp_path / "cmkd").iterdir()
    compiled = library.stat().st_mtime_ns
    assert "compiled C" in run(tmp_path)
    assert library.stat().st_mtime_ns == compiled
    library.write_bytes(b"half of a library")
    assert "compiled C" in run(tmp_path)
    assert library.stat().st_mtime_ns != compiled
    assert list((tmp_path / "cmkd").iterdir()) == [library]


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"CMKD_KERNELS": "0"}, "kernels are switched off"),
        ({"PATH": "", "CC": ""}, "no C compiler found"),
        ({"CC": "false"}, "false failed"),
    ],
)
def test_does_without_a_compiler_and_says_why(tmp_path, environment, reason):
    assert f"plain PyTorch ({reason}" in run(tmp_path, **environment).replace("/usr/bin/", "").replace(
        "/bin/", ""
    )


def test_compiles_where_nothing_can_be_kept(tmp_path):
    (tmp_path / "cmkd").write_text("a file in the place of the folder")
    assert "compiled C" in run(tmp_path)


def test_a_folder_that_others_can_write_to_is_not_trusted(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiling.cache_folder() == tmp_path / "cmkd"
    (tmp_path / "cmkd").chmod(0o777)
    assert compiling.cache_folder() is None


def test_a_folder_that_others_made_for_the_user_is_trusted(tmp_path, monkeypatch):
    """The index of shards is kept beside the kernels, and may come first."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "deep"))
    before = os.umask(0o002)
    try:
        compiling.make_user_folder()
    finally:
        os.umask(before)
    assert compiling.cache_folder() == tmp_path / "deep" / "cmkd"


def test_a_relative_cache_folder_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "somewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compiling.cache_folder() == tmp_path / ".cache/cmkd"


def test_what_is_kept_is_loaded_where_nothing_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiling.load_library()

    def refuse(*_):
        raise AssertionError("compiled anew")

    monkeypatch.setattr(compiling, "_compile", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert compiling.load_library()


def test_compiles_beside_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    places = []
    monkeypatch.setattr(compiling, "_compile", lambda target, level: places.append(target))
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    compiling.load_library()
    assert places[0].parent != tmp_path / "cmkd"

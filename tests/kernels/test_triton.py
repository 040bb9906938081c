"""The Triton kernels without a GPU: results from Triton's interpreter, and machine code compiled ahead."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cmkd.kernels.triton_launch import tiled_layout, whole_layout
from cmkd.kernels.triton_rows import supported

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled in Triton's interpreter", allow_module_level=True)

FLAGS = {"PEARSON": True, "RANKED": True, "FLIP": False, "CONVEX": True, "GIVEN": False, "TOTAL": True}
INTEGERS = {"M", "C", "student_stride", "teacher_stride", "mask_stride"}
NUMBERS = {"inverse_tau", "pearson_weight", "spearman_weight"}


@pytest.mark.parametrize("name", ["test_triton_interpreted.py", "test_triton_losses_interpreted.py"])
def test_results_in_the_interpreter(name):
    """In a process of its own: the interpreter is chosen when Triton is imported."""
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-n",
            "0",
            "-p",
            "no:cacheprovider",
            str(Path(__file__).with_name(name)),
        ],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    assert " passed" in run.stdout
    assert "skipped" not in run.stdout


def kernels(classes, masked):
    from cmkd.kernels.triton_tables import row_tables
    from cmkd.kernels.triton_tiled import tiled_rows
    from cmkd.kernels.triton_whole import teacher_hardness, whole_rows

    knots = 9 if classes <= 16 else 33
    small = classes <= 1024
    layout = (whole_layout(classes, knots) if small else tiled_layout(knots)) | FLAGS | {"MASK": masked}
    return layout, (teacher_hardness, whole_rows) if small else (row_tables, tiled_rows)


def compiled(kernel, layout, dtype, capability):
    import triton
    from triton.backends.compiler import GPUTarget

    def type_of(name):
        if name in INTEGERS:
            return "i32"
        if name in NUMBERS:
            return "fp32"
        if name in ("student", "teacher", "gradient"):
            return f"*{dtype}"
        return {"mask": "*i1", "arrived": "*i32"}.get(name, "*fp32")

    names = {p.name: p.is_constexpr for p in kernel.params}
    constants = {name: layout[name] for name, is_constant in names.items() if is_constant}
    signature = {name: type_of(name) for name in names if name not in constants}
    options = {name: layout[name] for name in ("num_warps", "maxnreg") if name in layout}
    source = triton.compiler.ASTSource(kernel, signature, constants)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options=options | {"enable_fp_fusion": True})


@pytest.mark.parametrize("classes", [10, 1000, 21841])
@pytest.mark.parametrize(("dtype", "capability", "masked"), [("fp32", 80, True), ("bf16", 90, False)])
def test_compiles_for_gpus_that_are_not_here(classes, dtype, capability, masked, tmp_path):
    import triton

    layout, both = kernels(classes, masked)
    for kernel in both:
        code = compiled(kernel, layout, dtype, capability).asm
        assert f".target sm_{capability}" in code["ptx"]
        # Sums in floating point by whoever comes first would differ from run to run.
        assert not re.search(r"\b(?:atom|red)\b[.\w]*\.(?:f|bf)\d+", code["ptx"])
        (tmp_path / "kernel.cubin").write_bytes(code["cubin"])
        cuobjdump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        usage = subprocess.run(
            [cuobjdump, "--dump-resource-usage", tmp_path / "kernel.cubin"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        # Bytes of a thread that did not fit into registers.
        assert int(re.search(r"STACK:(\d+)", usage)[1]) <= 512


def test_tensors_on_the_cpu_are_not_for_triton():
    x = torch.zeros(4, 10)
    assert not supported(x, x, knots=9)

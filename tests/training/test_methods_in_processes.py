"""Methods that learn something beside the student, in two processes: they learn what they would in one."""

from pathlib import Path

import pytest
import torch

from cmkd.training import DistillConfig, distill
from tests.training.test_processes import TESTS, difference, options, run_plan, weights

STAGED = {
    "student": "tiny_networks:staged",
    "teacher": "tiny_networks:staged_teacher",
    "epochs": 1,
    "batch_size": 120,
    "validation": 0.95,  # leaves 600 images, five steps
}
METHODS = {
    # With batch norm, with which each process normalises its own images.
    "FitNet": {"name": "FitNet"},
    "ReviewKD": {"name": "ReviewKD"},
    "OFD": {"name": "OFD", "weight": 0.1},
    "SRRL": {"name": "SRRL"},
    "SimKD": {"name": "SimKD"},
    # Without.
    "VID": {"name": "VID"},
    "CRD": {"name": "CRD", "negatives": 64},
    "CTKD": {"name": "CTKD", "curriculum_epochs": 0.5},
}
EXACT = {
    **{name: {**STAGED, "loss": METHODS[name]} for name in ("VID", "CRD", "CTKD")},
    "ensemble": {
        **STAGED,
        "teacher": ["tiny_networks:teacher", "tiny_networks:staged_teacher"],
        "loss": {"name": "KD"},
    },
    # The gathering of the batch is in the compiled step.
    "compiled": {**STAGED, "loss": {"name": "DIST"}},
}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Folder with the runs of two processes, and what each of these ended with."""
    folder = tmp_path_factory.mktemp("two")
    plan = [
        {"options": options(folder / name, **STAGED, loss=loss), "keep": True}
        for name, loss in METHODS.items()
    ]
    plan += [
        {"options": options(folder / "ensemble", **EXACT["ensemble"])},
        {
            "options": options(folder / "compiled", **EXACT["compiled"], compile="default"),
            "backend": "aot_eager",
        },
    ]
    run_plan(plan)
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Folder with what one process trains."""
    folder = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TESTS))
        torch.set_num_threads(1)
        for name, changes in EXACT.items():
            distill(DistillConfig(**options(folder / name, **changes)), progress=False)
    return folder


def kept(folder: Path, rank: int):
    return torch.load(f"{folder}.{rank}.pt", weights_only=True)


@pytest.mark.parametrize("name", METHODS)
def test_both_processes_end_with_the_same(two, name):
    first, second = kept(two / name, 0), kept(two / name, 1)
    assert first["now"].keys() == second["now"].keys()
    for key, value in first["now"].items():
        assert torch.equal(value, second["now"][key]), key
    assert name == "SimKD" or any(key.startswith("objective.") for key in first["learns"])
    for key in first["learns"]:
        assert not torch.equal(first["now"][key], first["before"][key]), key


@pytest.mark.parametrize("name", METHODS)
def test_the_student_alone_is_exported(two, name):
    student = {
        key.removeprefix("student."): value
        for key, value in kept(two / name, 0)["now"].items()
        if key.startswith("student.")
    }
    exported = weights(two / name)
    assert exported.keys() == student.keys()
    assert all(torch.equal(value, student[key]) for key, value in exported.items())


@pytest.mark.parametrize("name", EXACT)
def test_one_process_learns_the_same(two, alone, name):
    assert difference(weights(two / name), weights(alone / name)) < 2e-6
    if name in METHODS:
        state = torch.load(alone / name / "state/checkpoint.pt", weights_only=True)["trained"]
        assert difference(kept(two / name, 0)["now"], state) < 2e-6

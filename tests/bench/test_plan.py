"""A grid taken apart by hand."""

import itertools

import pytest

from cmkd.bench.plan import expand
from cmkd.bench.reading import read_spec
from tests.bench.specs import GRID, changed, write_spec


def plan_of(tmp_path, grid, tuned=None):
    return expand(read_spec(write_spec(tmp_path, grid)), "runs/grid", tuned or {})


def test_every_cell_is_there_once(tmp_path):
    plan = plan_of(tmp_path, GRID)
    assert [job.name for job in plan.of("teacher")] == ["teachers/big"]  # the other one is given
    assert plan.of("cache") == []
    assert [job.name for job in plan.of("trial")] == [
        "tuning/big--resnet8/KD/trial0-seed100",
        "tuning/big--resnet8/KD/trial1-seed100",
        "tuning/big--resnet8/mine/trial0-seed100",
        "tuning/big--resnet8/mine/trial1-seed100",
    ]
    by_hand = [
        f"cells/{teacher}--{student}/{method}/seed{seed}"
        for teacher, student, method, seed in itertools.product(
            ("big", "given"), ("resnet8", "resnet14"), ("CE", "KD", "mine"), (0, 1)
        )
    ]
    assert [cell.name for cell in plan.cells()] == by_hand
    assert len(by_hand) == 24
    assert len(plan.jobs) == 1 + 4 + 24
    # All cells of the first seed come first, so that an unfinished grid can be read.
    assert [job.labels["seed"] for job in plan.of("cell")] == [0] * 12 + [1] * 12


def test_what_a_cell_is_told(tmp_path):
    cell = plan_of(tmp_path, GRID).jobs["cells/big--resnet14/KD/seed1"]
    assert cell.verb == "distill"
    assert cell.options == {
        "teacher": "runs/grid/teachers/big",
        "student": "resnet14",
        "epochs": 2,
        "batch_size": 16,
        "cpu": True,
        "loss": {"name": "KD", "temperature": 2.0},
        "seed": 1,
        "out": "runs/grid/cells/big--resnet14/KD/seed1",
    }
    given = plan_of(tmp_path, GRID).jobs["cells/given--resnet8/CE/seed0"].options
    assert (given["teacher"], given["teacher_weights"]) == ("resnet8", "random")


def test_a_trial_is_short_and_never_sees_the_test_set(tmp_path):
    plan = plan_of(tmp_path, changed(("options/test", "each")))
    trial = plan.jobs["tuning/big--resnet8/mine/trial1-seed100"]
    assert trial.options["test"] == "never"
    assert (trial.options["epochs"], trial.options["lr"], trial.options["seed"]) == (1, 0.3, 100)
    assert all(trial.options["test"] == "never" for trial in plan.of("trial"))
    assert all(cell.options["test"] == "each" for cell in plan.of("cell"))
    assert trial.needs == ("teachers/big",)


def test_cells_wait_for_the_trials_of_their_method_and_take_what_was_chosen(tmp_path):
    plan = plan_of(tmp_path, GRID)
    tuned, plain = (plan.jobs[f"cells/given--resnet8/{method}/seed0"] for method in ("KD", "CE"))
    assert tuned.needs == tuple(f"tuning/big--resnet8/KD/trial{number}-seed100" for number in (0, 1))
    assert plain.needs == ()
    assert not plan.decided(tuned)
    assert plan.decided(plain)
    plan = plan_of(tmp_path, GRID, {"KD": {"loss": {"alpha": 0.5}}})
    losses = {cell.labels["method"]: cell.options["loss"] for cell in plan.of("cell")}
    assert losses["KD"] == {"name": "KD", "temperature": 2.0, "alpha": 0.5}
    assert losses["mine"] == {"name": "CMKD"}


def test_caches_are_shared_and_methods_on_features_go_without(tmp_path):
    plan = plan_of(
        tmp_path,
        changed(
            ("cache", {"views": 3}),
            ("tuning",),
            ("methods/AT", {"loss": {"name": "KD"}, "with": [{"name": "AT"}]}),
            ("options/data", "cifar100"),
            ("options/augment_seed", 5),
        ),
    )
    cache = plan.jobs["caches/big"]
    assert cache.needs == ("teachers/big",)
    assert cache.options == {
        "teacher": "runs/grid/teachers/big",
        "data": "cifar100",
        "cpu": True,
        "views": 3,
        "augment_seed": 5,
    }
    assert plan.jobs["caches/given"].options["teacher_weights"] == "random"
    kd, at = (plan.jobs[f"cells/big--resnet8/{method}/seed1"] for method in ("KD", "AT"))
    assert kd.options["cache"] == "runs/grid/caches/big"
    assert kd.needs == ("teachers/big", "caches/big")
    assert "cache" not in at.options
    assert at.needs == ("teachers/big",)
    assert at.options["views"] == 3
    assert kd.options["augment_seed"] == at.options["augment_seed"] == 5


def test_options_of_pairs(tmp_path):
    pairs = [
        {"teacher": "given", "student": "resnet8"},
        {
            "teacher": "given",
            "student": "resnet14",
            "options": {"lr": 0.01},
            "methods": {"KD": {"loss": {"alpha": 0.3}}},
        },
    ]
    plan = plan_of(tmp_path, changed(("students",), ("pairs", pairs), ("tuning",)))
    assert plan.of("teacher") == []  # nobody is taught by the other one
    assert len(plan.cells()) == 2 * 3 * 2
    first, second = (
        plan.jobs[f"cells/given--{student}/KD/seed0"].options for student in ("resnet8", "resnet14")
    )
    assert "lr" not in first
    assert second["lr"] == 0.01
    assert second["loss"] == {"name": "KD", "temperature": 2.0, "alpha": 0.3}
    assert plan.jobs["cells/given--resnet14/CE/seed0"].options["loss"] == {"name": "CE"}


@pytest.mark.parametrize("kind", ["teacher", "trial", "cell"])
def test_every_run_has_a_configuration(tmp_path, kind):
    for job in plan_of(tmp_path, GRID).of(kind):
        config = job.config()
        assert config.epochs == job.epochs
        assert config.out == f"runs/grid/{job.name}"


def test_what_the_grid_file_says(tmp_path):
    content = plan_of(tmp_path, GRID).as_dict("specs/grid.yaml")
    assert (content["version"], content["name"], content["spec"]) == (1, "grid", "specs/grid.yaml")
    assert [len(content[part]) for part in ("teachers", "caches", "trials", "cells")] == [1, 0, 4, 24]
    cell = content["cells"][0]
    assert {key: cell[key] for key in ("teacher", "student", "method", "seed")} == {
        "teacher": "big",
        "student": "resnet8",
        "method": "CE",
        "seed": 0,
    }
    assert cell["name"] == cell["folder"] == "cells/big--resnet8/CE/seed0"
    assert content["trials"][1]["trial"] == 1

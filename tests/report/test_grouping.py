import json

import pytest
import yaml

from cmkd.errors import InputError
from cmkd.report import group_runs

COMMON = {"data": "cifar10", "epochs": 8, "workers": 2, "decay": 0.1}


def run_folder(root, name, *, seed=0, loss=None, **changes):
    (root / name).mkdir()
    config = {**COMMON, "teacher": "t", "seed": seed, "loss": loss or {"name": "CMKD", "alpha": 8}, **changes}
    (root / name / "config.yaml").write_text(yaml.safe_dump(config))
    return root / name


def names(groups):
    return {label: [folder.path.name for folder in folders] for label, folders in groups.items()}


def test_seeds_are_pooled_and_the_number_of_workers_is_nothing(tmp_path):
    runs = [run_folder(tmp_path, "a"), run_folder(tmp_path, "b", seed=1, workers=0)]
    assert names(group_runs(runs)) == {"CMKD": ["a", "b"]}


def test_what_differs_stands_in_the_name(tmp_path):
    runs = [
        run_folder(tmp_path, "a"),
        run_folder(tmp_path, "b", loss={"name": "CMKD", "alpha": 2}),
        run_folder(tmp_path, "c", epochs=30, seed=3),
        run_folder(tmp_path, "d", loss={"name": "KD"}),
    ]
    assert names(group_runs(runs)) == {
        "CMKD (epochs 8, alpha 8)": ["a"],
        "CMKD (epochs 8, alpha 2)": ["b"],
        "CMKD (epochs 30, alpha 8)": ["c"],
        "KD": ["d"],
    }


def test_equal_numbers_are_equal_however_they_are_written(tmp_path):
    runs = [run_folder(tmp_path, "a"), run_folder(tmp_path, "b", seed=1, loss={"name": "CMKD", "alpha": 8.0})]
    assert names(group_runs(runs)) == {"CMKD": ["a", "b"]}


def test_an_option_of_the_loss_does_not_hide_one_of_the_run(tmp_path):
    runs = [
        run_folder(tmp_path, "a", loss={"name": "Own", "decay": 1}),
        run_folder(tmp_path, "b", loss={"name": "Own", "decay": 1}, decay=0.5),
    ]
    assert len(group_runs(runs)) == 2


def test_cells_have_the_names_of_their_grid(tmp_path):
    cells = []
    for method, seed, loss in (("mine", 0, "CMKD"), ("mine", 1, "CMKD"), ("with words", 0, "KD")):
        folder = f"cells/pair/{method}/seed{seed}"
        (tmp_path / folder).parent.mkdir(parents=True, exist_ok=True)
        run_folder(tmp_path, folder, seed=seed, loss={"name": loss})
        cells.append({"folder": folder, "method": method})
    (tmp_path / "grid.json").write_text(json.dumps({"cells": cells}))
    runs = [tmp_path / cell["folder"] for cell in cells]
    assert names(group_runs(runs)) == {"mine": ["seed0", "seed1"], "with words": ["seed0"]}
    (tmp_path / "grid.json").write_text("[1]")
    assert list(group_runs(runs)) == ["CMKD", "KD"]


@pytest.mark.parametrize(
    ("networks", "expected"),
    [
        (("resnet20", "resnet56"), ["resnet20", "resnet56"]),
        (("resnet20", "resnet20"), ["resnet20 000000", "resnet20 111111"]),
    ],
)
def test_another_teacher_is_another_group(tmp_path, networks, expected):
    runs = [run_folder(tmp_path, "a"), run_folder(tmp_path, "b", seed=1)]
    for run, network, digit in zip(runs, networks, "01", strict=True):
        (run / "teacher.json").write_text(json.dumps({"sha256": digit * 64, "network": network}))
    assert list(group_runs(runs)) == [f"CMKD (teacher {name})" for name in expected]


def test_the_same_weights_in_two_places_are_one_teacher(tmp_path):
    runs = [run_folder(tmp_path, "a"), run_folder(tmp_path, "b", seed=1, teacher="elsewhere")]
    for run in runs:
        (run / "teacher.json").write_text(json.dumps({"sha256": "0" * 64, "network": "resnet20"}))
    assert names(group_runs(runs)) == {"CMKD": ["a", "b"]}


def test_of_folders_only_their_ends_are_named_and_groups_stay_apart(tmp_path):
    folders = ("/home/me/birds/a", "/home/me/birds/b", "/mnt/birds/a", "/srv/birds/a")
    runs = [run_folder(tmp_path, str(n), data=f"folder:{folder}") for n, folder in enumerate(folders)]
    assert names(group_runs(runs)) == {
        "CMKD (data folder:…/birds/a)": ["0"],
        "CMKD (data folder:…/birds/b)": ["1"],
        "CMKD (data folder:…/birds/a) (2)": ["2"],
        "CMKD (data folder:…/birds/a) (3)": ["3"],
    }


def test_the_same_folder_twice_is_one_run(tmp_path):
    run = run_folder(tmp_path, "a")
    assert names(group_runs([run, tmp_path / "." / "a"])) == {"CMKD": ["a"]}


def test_a_repetition_is_no_second_seed(tmp_path):
    with pytest.raises(InputError, match="same seed 0"):
        group_runs([run_folder(tmp_path, "a"), run_folder(tmp_path, "b")])

import csv
import json
import re
import shutil
from pathlib import Path

import pytest

from cmkd.bench.reporting import report_grid
from cmkd.bench.reporting.comparing import compare
from cmkd.bench.reporting.heading import heading as describe
from cmkd.bench.reporting.results import read_grid
from cmkd.bench.reporting.wording import budgets, rows
from cmkd.errors import InputError
from tests.bench.grids import PAIR, cell_name, edit_config, write_grid

KD = {0: 0.70, 1: 0.71, 2: 0.72}
CMKD = {0: 0.72, 1: 0.72, 2: 0.75}


@pytest.fixture
def grid(tmp_path):
    return write_grid(tmp_path / "grid", {PAIR: {"CE": {0: 0.69}, "KD": KD, "CMKD": CMKD}})


def outcomes(path):
    (pair,) = compare(read_grid(path))
    return {outcome.method: outcome for outcome in pair.outcomes}


def table(path):
    (pair,) = compare(read_grid(path))
    return {row["method"]: row for row in rows(pair)}


def test_rows_hold_the_figures_worked_out_by_hand(grid):
    found = table(grid)
    assert found["Teacher (resnet56)"]["test accuracy (%)"] == "91.50"
    assert found["KD"]["test accuracy (%)"] == "71.00 ± 1.00"
    # 72, 72, 75: mean 73, squares 1 + 1 + 4, divided by 2: sqrt(3)
    # differences 2, 1, 3: mean 2, deviation 1; t for 2 degrees of freedom 4.3027, divided by sqrt(3): 2.4841
    assert found["CMKD"] == {
        "method": "CMKD",
        "n": "3",
        "test accuracy (%)": "73.00 ± 1.73",
        "difference to KD (points), 95 % CI": "+2.00 [-0.48, +4.48]",
        "agreement with teacher (%)": "75.00 ± 1.73",
        "rank correlation with teacher": "0.780 ± 0.017",
        "training time": "16 s",
        "published (%)": "–",
    }


def test_published_figures_stand_beside_ours_with_their_source(grid):
    found = table(grid)
    assert found["Teacher (resnet56)"]["published (%)"] == "72.34 (RepDistiller README)"
    assert found["CE"]["published (%)"] == "69.06 (RepDistiller README)"
    assert found["KD"]["published (%)"] == "70.66 (RepDistiller README)"


def test_a_variant_of_a_published_method_has_no_published_figure(tmp_path):
    grid = write_grid(tmp_path / "grid", {PAIR: {"KD": {0: 0.7}, "KD, warm": {0: 0.7}, "KD+LS": {0: 0.7}}})
    for method, options in {"KD, warm": {}, "KD+LS": {"logit_standardization": True}}.items():
        edit_config(grid / cell_name(*PAIR, method, 0), loss={"name": "KD", **options})
    found = table(grid)
    assert found["KD, warm"]["published (%)"] == "–"
    assert found["KD+LS"]["published (%)"].startswith("71.43 (logit-standardization-KD")


def test_one_of_several_figures_is_found_by_its_whole_name(tmp_path):
    pair = ("torchvision:resnet34", "torchvision:resnet18")
    methods = {"KD": {0: 0.7}, "KD-T4": {0: 0.7}, "KD-T1": {0: 0.7}}
    grid = write_grid(tmp_path / "grid", {pair: methods}, data="folder:imagenet")
    for method in methods:
        edit_config(grid / cell_name(*pair, method, 0), loss={"name": "KD"})
    found = table(grid)
    assert found["KD"]["published (%)"].count(";") == 4  # three figures, two with a note
    assert found["KD-T4"]["published (%)"] == "71.21 (DIST_KD README; T=4)"
    assert found["KD-T1"]["published (%)"] == "–"


def test_one_seed_has_no_interval_and_the_page_says_why(grid):
    assert table(grid)["CE"]["difference to KD (points), 95 % CI"] == "-1.00 [n/a]"
    report = report_grid(grid)
    assert "No confidence interval (n/a) for CE: it needs two or more seeds" in report.tables
    assert "No confidence interval (n/a) for CE" in (grid / "report.html").read_text()


def test_the_best_epoch_on_the_test_set_is_shown_where_it_was_measured(tmp_path, grid):
    assert not any("best" in heading for heading in table(grid)["KD"])
    each = write_grid(tmp_path / "each", {PAIR: {"KD": KD}}, each_epoch=True)
    assert table(each)["KD"]["best epoch on the test set (%), optimistic"] == "73.00 ± 1.00"
    assert table(each)["KD"]["test accuracy (%)"] == "71.00 ± 1.00"
    report_grid(each)
    (row, *_) = csv.DictReader((each / "table.csv").read_text().splitlines())
    assert (row["best_test_epoch"], float(row["best_test_accuracy"])) == ("2", pytest.approx(0.72))


def test_what_went_wrong_is_shown_and_never_dropped(tmp_path):
    failed, blocked = cell_name(*PAIR, "CMKD", 1), cell_name(*PAIR, "CMKD", 2)
    grid = write_grid(
        tmp_path / "grid",
        {PAIR: {"KD": {0: 0.7, 1: 0.71}, "DIST": {0: 0.7, 1: None}, "CMKD": {0: 0.72, 1: None, 2: None}}},
        failures={
            failed: {"error": "cmkd: error: no | space <left>", "status": 2, "attempts": 1, "log": "x"},
            blocked: {"error": "x", "status": None, "attempts": 0, "log": None, "blocked_by": failed},
        },
    )
    (grid / cell_name(*PAIR, "KD", 1) / "result.json").unlink()  # killed after the last of its 3 epochs
    assert table(grid)["CMKD"]["n"] == "1 of 3"
    report = report_grid(grid)
    assert "3 of 7 cells finished, 1 unfinished, 1 missing, 1 failed, 1 blocked" in report.lead
    assert "- CMKD, seed 1: failed: cmkd: error: no \\| space &lt;left&gt;" in report.tables
    assert "- KD, seed 1: unfinished: 3 of 3 epochs" in report.tables
    assert f"- CMKD, seed 2: blocked: {failed} failed: cmkd: error" in report.tables
    assert "- DIST, seed 1: missing" in report.tables
    for file in report.files:
        text = file.read_text(encoding="utf-8")
        if file.name != "summary.csv":
            assert "no | space" in text or "no \\| space" in text
    states = [row["state"] for row in csv.DictReader((grid / "table.csv").read_text().splitlines())]
    assert states == ["finished", "unfinished", "finished", "missing", "finished", "failed", "blocked"]


def test_a_method_none_of_whose_cells_finished_keeps_its_row(tmp_path):
    grid = write_grid(tmp_path / "grid", {PAIR: {"KD": {0: 0.7}, "CMKD": {0: None}}})
    row = table(grid)["CMKD"]
    assert (row["n"], row["test accuracy (%)"]) == ("0 of 1", "–")
    report_grid(grid)


def test_a_grid_that_has_not_begun_has_a_report(tmp_path):
    grid = write_grid(tmp_path / "grid", {PAIR: {"KD": {0: None}}})
    report = report_grid(grid)
    assert "0 of 1 cell finished, 1 missing" in report.lead


def test_a_damaged_cell_is_shown_as_such(tmp_path, grid):
    run = grid / cell_name(*PAIR, "CMKD", 1)
    (run / "result.json").write_text('{"images": 20')
    row = table(grid)["CMKD"]
    assert (row["n"], row["test accuracy (%)"]) == ("2 of 3", "73.50 ± 2.12")
    assert "result.json is not valid JSON" in report_grid(grid).tables


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epochs": 8}, "epochs 8 (others 3)"),
        ({"lr": 0.05}, "lr 0.05 (others 0.1)"),
        ({"batch_size": 64}, "batch_size 64 (others 128)"),
        ({"validation": 0.0}, "validation 0.0 (others 0.1)"),
        ({"ema_decay": 0.99}, "ema_decay 0.99 (others –)"),
        ({"views": 4}, "views 4 (others –)"),
        ({"image_size": 40}, "image_size 40 (others –)"),
    ],
)
def test_a_method_with_another_budget_is_marked_with_what_differs(grid, change, said):
    for seed in CMKD:
        edit_config(grid / cell_name(*PAIR, "CMKD", seed), **change)
    assert budgets(outcomes(grid)["CMKD"]) == said
    assert outcomes(grid)["KD"].unlike == {}
    assert "CMKD †" in table(grid)
    assert f"† CMKD had another budget than the rest: {said}." in report_grid(grid).tables


def test_precision_and_teacher_are_part_of_the_budget(grid):
    for seed in CMKD:
        run = grid / cell_name(*PAIR, "CMKD", seed)
        for file, changed in {
            "environment.json": {"precision": "fp32"},
            "teacher.json": {"sha256": "f" * 64},
        }.items():
            content = json.loads((run / file).read_text())
            (run / file).write_text(json.dumps(content | changed))
    assert budgets(outcomes(grid)["CMKD"]) == (
        "teacher sha256 ffffffffffff (others resnet560000); precision fp32 (others bf16)"
    )


def test_what_is_the_methods_own_or_changes_nothing_is_no_budget(grid):
    for seed in CMKD:
        changed = {
            "task_weight": 2.0,
            "workers": 7,
            "distill_warmup_epochs": 2.0,
            "test": "each",
            "data_root": "d",
        }
        edit_config(grid / cell_name(*PAIR, "CMKD", seed), **changed, precision="fp32")
    assert outcomes(grid)["CMKD"].unlike == {}


def test_an_option_that_did_not_exist_yet_has_its_default(grid):
    edit_config(grid / cell_name(*PAIR, "CMKD", 0), fsdp=False, decay=0.1, clip_grad=None)
    assert outcomes(grid)["CMKD"].unlike == {}


@pytest.mark.parametrize(
    ("change", "ours", "theirs"),
    [
        ({"epochs": 8}, "3", "8"),
        ({"schedule": "multistep"}, "cosine", "multistep"),
        ({"loss": {"name": "CMKD", "alpha": 2}}, "8", "2"),
        ({"task_weight": 0.5}, "–", "0.5"),
        ({"with": [{"name": "FitNet", "weight": 100.0}]}, "–", "FitNet"),
    ],
)
def test_seeds_of_unlike_budgets_are_not_averaged(grid, change, ours, theirs):
    edit_config(grid / cell_name(*PAIR, "CMKD", 2), **change)
    with pytest.raises(InputError) as refused:
        report_grid(grid)
    (option,) = change
    assert re.search(
        rf"{option}\S* is {re.escape(ours)} in the one and .*{theirs}.* in the other", str(refused.value)
    )
    assert "CMKD/seed0" in str(refused.value)
    assert "CMKD/seed2" in str(refused.value)
    assert not (grid / "report.html").exists()


def test_a_cell_that_has_not_finished_is_not_averaged_and_may_differ(grid):
    run = grid / cell_name(*PAIR, "CMKD", 2)
    edit_config(run, epochs=8)
    (run / "result.json").unlink()
    assert outcomes(grid)["CMKD"].unlike == {cell_name(*PAIR, "CMKD", 2): ["epochs 8 (others 3)"]}
    report = report_grid(grid)
    assert "† CMKD had another budget than the rest: epochs 8 (others 3), seed 2." in report.tables
    marks = [row["unlike_budget"] for row in csv.DictReader((grid / "table.csv").read_text().splitlines())]
    assert marks == [*[""] * 6, "epochs 8 (others 3)"]


def test_a_folder_with_another_seed_is_refused(grid):
    edit_config(grid / cell_name(*PAIR, "CMKD", 2), seed=1)
    with pytest.raises(InputError, match=r"holds a run with seed 1, but is the grid's cell for seed 2"):
        report_grid(grid)


def test_links_are_relative_and_lead_to_what_exists(tmp_path, grid):
    out = tmp_path / "elsewhere" / "report"
    report = report_grid(grid, out)
    assert sorted(file.name for file in report.files) == sorted(
        ["report.html", "table.md", "table.csv", "summary.csv", "table.tex"]
    )
    page = (out / "report.html").read_text(encoding="utf-8")
    addresses = set(re.findall(r'href="([^"]+)"', page)) - {"data:,"}
    addresses |= set(re.findall(r"\]\(([^)]+)\)", (out / "table.md").read_text(encoding="utf-8")))
    assert len(addresses) == 3 * 7  # folder, log and curves of seven cells
    assert all((out / address).exists() for address in addresses)
    assert not any(address.startswith("/") for address in addresses)
    assert str(tmp_path) not in page


def test_the_summary_file_has_unrounded_numbers(grid):
    report_grid(grid)
    found = {row["method"]: row for row in csv.DictReader((grid / "summary.csv").read_text().splitlines())}
    assert float(found["CMKD"]["accuracy_std"]) == pytest.approx(3**0.5 / 100)
    assert float(found["CMKD"]["difference_half_width_95"]) == pytest.approx(0.0430265 / 3**0.5, rel=1e-5)
    assert found["CE"]["difference_half_width_95"] == ""
    assert found["KD"]["published"] == "0.7066"


def test_every_cell_has_its_options_and_versions_in_a_row(grid):
    report_grid(grid)
    found = list(csv.DictReader((grid / "table.csv").read_text().splitlines()))
    assert len(found) == 7
    assert found[-1]["option.loss.alpha"] == "8"
    assert (found[-1]["test.accuracy"], found[-1]["environment.torch"]) == ("0.75", "2.9.0")


def test_the_teachers_accuracies_on_test_set_and_validation_part_are_told_apart(grid):
    report_grid(grid)
    row = next(csv.DictReader((grid / "table.csv").read_text().splitlines()))
    assert (row["teacher.accuracy"], row["teacher.validation_accuracy"]) == ("0.915", "0.9213")
    assert row["teacher.sha256"].startswith("resnet56")


def told(path):
    """Return how a grid was measured: topic -> text."""
    grid = read_grid(path)
    return describe(grid, compare(grid))


def test_the_number_of_seeds_is_that_of_a_pair_and_of_what_has_finished(tmp_path):
    three = {"KD": dict.fromkeys(range(3), 0.7), "CMKD": dict.fromkeys(range(3), 0.72)}
    pairs = {(teacher, "resnet20"): three for teacher in ("resnet56", "resnet32", "resnet44")}
    assert told(write_grid(tmp_path / "pairs", pairs))["Seeds"] == "0, 1, 2 (n = 3 per method and pair)"
    alone = write_grid(tmp_path / "alone", {PAIR: three})
    assert told(alone)["Seeds"] == "0, 1, 2 (n = 3 per method)"
    (alone / cell_name(*PAIR, "KD", 2) / "result.json").unlink()
    assert told(alone)["Seeds"] == "0, 1, 2"
    (alone / cell_name(*PAIR, "CMKD", 2) / "result.json").unlink()
    assert told(alone)["Seeds"] == "0, 1, 2 (n = 2 per method)"


def test_where_pairs_differ_in_the_options_of_a_method_they_are_named(tmp_path):
    other = ("resnet32", "resnet20")
    methods = {"KD": {0: 0.7}, "CMKD": {0: 0.7}}
    grid = write_grid(tmp_path / "grid", {PAIR: methods, other: methods})
    edit_config(grid / cell_name(*other, "CMKD", 0), loss={"name": "CMKD", "alpha": 2})
    said = told(grid)
    assert said["Objective of KD"] == "cross-entropy and KD with its defaults"
    assert said["Objective of CMKD"] == (
        "cross-entropy and CMKD with alpha: 8 (resnet56 → resnet20); "
        "cross-entropy and CMKD with alpha: 2 (resnet32 → resnet20)"
    )


def test_how_it_was_measured_is_told(grid):
    run = grid / cell_name(*PAIR, "CMKD", 0)
    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps({**environment, "revision": "fedcba987654-dirty"}))
    report_grid(grid)
    text = (grid / "table.md").read_text(encoding="utf-8")
    for said in (
        "- **Command:** cmkd bench grid.yaml",
        "7 of 7 cells finished",
        "- **Epochs:** 3",
        "SGD, momentum 0.9 (Nesterov), weight decay 0.0005",
        "mixed: 0123456789ab (6 runs); fedcba987654-dirty (1 run) (-dirty: with changes",
        "0 (CE); 0, 1, 2 (KD, CMKD)",
        "bf16",
        "A processor (cpu, 2 threads)",
        "torch 2.9.0",
        "**Tuning:** None: every method has",
        "network of the last epoch",
    ):
        assert said in text, said


def test_without_kd_there_is_no_difference_and_it_is_said(tmp_path):
    grid = write_grid(tmp_path / "grid", {PAIR: {"CE": {0: 0.7}, "CMKD": {0: 0.71}}})
    assert "No method here is KD" in report_grid(grid).tables
    assert not any("difference" in heading for heading in table(grid)["CMKD"])


def test_times_over_unlike_hardware_are_marked(grid):
    assert "different hardware" not in report_grid(grid).tables
    run = grid / cell_name(*PAIR, "CMKD", 0)
    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps({**environment, "hardware": "Another"}))
    assert "The runs had different hardware or numbers of threads" in report_grid(grid).tables


def test_what_is_no_grid_is_refused(tmp_path, grid):
    with pytest.raises(InputError, match=r"is no grid: it has no grid\.json"):
        report_grid(tmp_path)
    content = json.loads((grid / "grid.json").read_text())
    (grid / "grid.json").write_text(json.dumps({**content, "version": 7}))
    with pytest.raises(InputError, match="version 7"):
        report_grid(grid)
    (grid / "grid.json").write_text(json.dumps({**content, "cells": [{"name": "x"}]}))
    with pytest.raises(InputError, match="not as `cmkd bench` writes it"):
        report_grid(grid)
    (grid / "grid.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        report_grid(grid)


def test_writing_again_gives_the_same_files(grid):
    before = {file: file.read_bytes() for file in report_grid(grid).files}
    assert all(file.read_bytes() == before[file] for file in report_grid(grid).files)


def test_runs_that_did_not_look_at_the_test_set_show_the_validation_part(tmp_path):
    grid = write_grid(tmp_path / "grid", {PAIR: {"KD": {0: 0.7}, "CMKD": {0: 0.72, 1: 0.74}}})
    assert "validation accuracy (%)" not in table(grid)["KD"]
    for seed in (0, 1):
        file = grid / cell_name(*PAIR, "CMKD", seed) / "result.json"
        result = json.loads(file.read_text())
        file.write_text(json.dumps({key: result[key] for key in result if key not in ("test", "images")}))
    row = table(grid)["CMKD"]
    assert (row["n"], row["test accuracy (%)"], row["validation accuracy (%)"]) == ("2", "–", "73.00 ± 1.41")
    assert "Runs that did not look at the test set: CMKD." in report_grid(grid).tables


def test_a_teacher_that_only_its_own_run_measured_has_its_accuracy_from_there(tmp_path):
    grid = write_grid(tmp_path / "grid", {PAIR: {"KD": {0: 0.7}}})
    file = grid / cell_name(*PAIR, "KD", 0) / "result.json"
    result = json.loads(file.read_text())
    file.write_text(json.dumps({key: result[key] for key in result if key != "teacher"}))
    assert table(grid)["Teacher (resnet56)"]["test accuracy (%)"] == "–"
    (grid / "teachers" / "resnet56").mkdir(parents=True)
    (grid / "teachers" / "resnet56" / "result.json").write_text('{"test": {"accuracy": 0.725}}')
    assert table(grid)["Teacher (resnet56)"]["test accuracy (%)"] == "72.50"


def test_real_runs_of_several_revisions_are_read_as_one_budget(tmp_path):
    study = Path(__file__).parents[2] / "results" / "cifar100-resnet20-resnet8"
    cells = []
    for method in ("CE", "KD", "CMKD"):
        folder = f"cells/{method}"
        shutil.copytree(study / f"{method.lower()}-seed0", tmp_path / folder)
        cells.append(
            {"name": folder, "teacher": "resnet20", "student": "resnet8", "method": method, "seed": 0}
            | {"folder": folder, "options": {}}
        )
    (tmp_path / "grid.json").write_text(json.dumps({"version": 1, "name": "real", "cells": cells}))
    assert all(outcome.unlike == {} for outcome in outcomes(tmp_path).values())
    published = (study / "table.md").read_text(encoding="utf-8")
    for method, row in table(tmp_path).items():
        (line,) = [line for line in published.splitlines() if line.startswith(f"| {method} ")]
        for heading in ("test accuracy (%)", "agreement with teacher (%)", "rank correlation with teacher"):
            assert f" {row[heading]} |" in line
    assert len(report_grid(tmp_path).files) == 5

"""From a grid's file to its report: what `cmkd bench` leaves is what `cmkd report` reads."""

import copy
import json
import re

import pytest

from cmkd.bench import running
from cmkd.bench.config import BenchConfig
from cmkd.bench.reporting import report_grid
from cmkd.bench.reporting.comparing import compare
from cmkd.bench.reporting.results import read_grid
from tests.bench.in_process import GRID, InProcess, known
from tests.bench.processes import TESTS
from tests.bench.specs import write_spec


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A grid with a second teacher that cannot be trained, a method that fails, and trials. Read only."""
    root = tmp_path_factory.mktemp("reported")
    grid = copy.deepcopy(GRID)
    grid["options"]["test"] = "each"
    grid["seeds"] = [0]
    grid["teachers"]["broken"] = {"model": "tiny_networks:broken", "epochs": 1}
    grid["methods"]["wild"] = {"loss": {"name": "KD"}, "lr": 1e30}
    grid["tuning"] = {
        "pair": {"teacher": "big", "student": "tiny_networks:student"},
        "seeds": [7],
        "options": {"epochs": 1},
        "trials": {"KD": [{"loss": {"temperature": 2}}, {"loss": {"temperature": 4}}]},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.syspath_prepend(str(TESTS))
        known(patch)
        patch.setattr(running, "open_runner", lambda config: InProcess())
        write_spec(root, grid)
        outcome = running.bench(BenchConfig(spec="grid.yaml", out="grid"))
    assert outcome.finished == 3
    return root / "grid"


def test_the_numbers_are_those_of_the_runs(root):
    pair = compare(read_grid(root))[0]
    for outcome in pair.outcomes[:3]:
        for cell in outcome.cells:
            kept = json.loads((cell.folder / "result.json").read_text())
            rows = [json.loads(line) for line in (cell.folder / "metrics.jsonl").read_text().splitlines()]
            assert outcome.accuracy.values[cell.seed] == kept["test"]["accuracy"]
            assert outcome.best.values[cell.seed] == max(row["test"]["accuracy"] for row in rows)
            assert outcome.unlike == {}
    assert (
        pair.teacher_accuracy
        == json.loads((root / "teachers/big/result.json").read_text())["test"]["accuracy"]
    )


def test_failed_and_blocked_cells_are_told_apart(root):
    grid = read_grid(root)
    states = {(cell.teacher, cell.method): (cell.state, cell.told) for cell in grid.cells}
    assert states["big", "wild"][0] == "failed"
    assert "lower" in states["big", "wild"][1]
    assert states["broken", "KD"][0] == "blocked"
    assert states["broken", "KD"][1].startswith("teachers/broken failed: ")
    tables = report_grid(root).tables
    assert tables.count(": blocked: ") == 4
    assert tables.count(": failed: ") == 1


def test_trials_and_the_choice_are_in_the_report(root):
    report_grid(root)
    text = (root / "table.md").read_text(encoding="utf-8")
    chosen = json.loads((root / "tuned.json").read_text())["methods"]["KD"]["options"]["loss"]["temperature"]
    assert f"KD: 2 trials, chosen temperature {chosen}" in text
    assert re.search(rf"\| temperature {chosen}: [0-9.]+ \(chosen\) ", text)
    assert "no trials: CE, CMKD, wild" in text
    assert "trials alone had epochs 1" in text


def test_every_cell_has_its_log_and_its_options(root):
    report_grid(root)
    text = (root / "table.md").read_text(encoding="utf-8")
    assert text.count("[log](logs/cells/") == 4
    assert text.count("[options](jobs/cells/") == 4

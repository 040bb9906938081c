"""The tables of the page on results are those of the committed grids: all rows, some columns left out."""

import json
import re
from pathlib import Path

import pytest
import scipy.stats

from cmkd.bench.reporting.comparing import compare
from cmkd.bench.reporting.markdown import pair_tables
from cmkd.bench.reporting.results import read_grid
from cmkd.bench.reporting.tuning import trial_rows
from cmkd.teachers.opening import _hash, load_run_network

ROOT = Path(__file__).parents[1]
PAGES = ("docs/results.md", "README.md")
#: Weights are in the repository, and not in the source distribution.
TEACHERS = sorted(file.parent for file in (ROOT / "results").glob("*/teachers/*/student.safetensors"))
GRIDS = sorted(file.parent for file in (ROOT / "results").glob("*/grid.json"))


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def tables(text):
    """Return the tables of a Markdown text, each as its rows: heading -> text."""
    found = []
    for block in re.findall(r"^\|.*(?:\n\|.*)+", text, flags=re.MULTILINE):
        head, _, *body = map(cells, block.splitlines())
        found.append([dict(zip(head, row, strict=True)) for row in body])
    return found


def is_part(table, whole):
    """Tell whether a table has the rows of another, all of them in their order, and some of its columns."""
    return len(table) == len(whole) and all(
        row.items() <= of.items() for row, of in zip(table, whole, strict=True)
    )


@pytest.fixture(scope="module")
def made():
    """What `cmkd report GRID --baseline METHOD` prints, for every grid and every method, and its trials."""
    found = []
    for folder in GRIDS:
        grid = read_grid(folder)
        found.append(trial_rows(grid))
        for baseline in grid.methods:
            found += tables(pair_tables(compare(grid, baseline)))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_of_grids_come_from_the_committed_ones(made, page):
    of_grids = [
        table
        for table in tables((ROOT / page).read_text(encoding="utf-8"))
        if {"method", "n"} <= table[0].keys() or "trial 1" in table[0]
    ]
    assert of_grids
    for table in of_grids:
        assert any(is_part(table, whole) for whole in made), table


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid.name)
def test_every_committed_grid_is_finished_and_on_the_page(grid):
    read = read_grid(grid)
    assert {cell.state for cell in read.cells} == {"finished"}
    page = tables((ROOT / "docs/results.md").read_text(encoding="utf-8"))
    of_pairs = [table for table in tables(pair_tables(compare(read, None))) if "n" in table[0]]
    assert of_pairs  # and the overview of several pairs, of which the page has a table of its own
    for whole in of_pairs:
        assert any(is_part(table, whole) for table in page)


#: Of figure 1, the committed runs of two methods under several teachers.
STRENGTH = [
    run
    for grid in ("cifar100-choices", "cifar100-strength-resnet8")
    for method in ("KD", "CMKD")
    for run in sorted((ROOT / "results" / grid).glob(f"cells/*/{method}/*"))
]


@pytest.fixture
def strength(monkeypatch):
    """The tables of `benchmarks/strength.py`."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import strength

    return tables(strength.tables(STRENGTH))


def test_the_tables_of_strength_come_from_the_committed_runs(strength):
    page = tables((ROOT / "docs/results.md").read_text(encoding="utf-8"))
    assert all(any(is_part(table, whole) for table in page) for whole in strength)


def test_intervals_and_slopes_of_strength_are_those_of_scipy(strength):
    reached = {}
    for run in STRENGTH:
        result = json.loads((run / "result.json").read_text())
        key = run.parts[-2], run.parts[-3].partition("--")[0]
        reached.setdefault(key, []).append((result["teacher"]["accuracy"], result["test"]["accuracy"]))
    of_teachers, of_slopes = strength
    teachers = [row["teacher"] for row in of_teachers]
    assert len(teachers) >= 3
    for row in of_teachers:
        mine, theirs = (
            [100 * own for _, own in reached[method, row["teacher"]]] for method in ("CMKD", "KD")
        )
        found = scipy.stats.ttest_rel(mine, theirs).confidence_interval()
        assert row["difference (points), 95 % CI"].endswith(f"[{found.low:+.2f}, {found.high:+.2f}]")
    slopes = {
        method: [
            scipy.stats.linregress(
                [reached[method, teacher][0][0] for teacher in teachers],
                [reached[method, teacher][seed][1] for teacher in teachers],
            ).slope
            for seed in range(3)
        ]
        for method in ("KD", "CMKD")
    }
    slopes["difference"] = [mine - theirs for theirs, mine in zip(slopes["KD"], slopes["CMKD"], strict=True)]
    for column, values in slopes.items():
        found = scipy.stats.ttest_1samp(values, 0).confidence_interval()
        mean = sum(values) / len(values)
        assert of_slopes[0][column] == f"{mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


@pytest.mark.parametrize("teacher", TEACHERS, ids=lambda teacher: f"{teacher.parts[-3]}-{teacher.name}")
def test_committed_teachers_are_those_that_the_cells_learned_from(teacher):
    network, _ = load_run_network(teacher)
    taught = list((teacher.parents[1] / "cells").glob(f"{teacher.name}--*/*/*/teacher.json"))
    assert taught
    assert {json.loads(file.read_text())["sha256"] for file in taught} == {_hash(network)}

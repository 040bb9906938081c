"""The tables of the page on results are those of the committed grids: all rows, some columns left out."""

import json
import re
from pathlib import Path

import pytest

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
    for whole in tables(pair_tables(compare(read, None))):
        assert any(is_part(table, whole) for table in page)


@pytest.mark.parametrize("teacher", TEACHERS, ids=lambda teacher: f"{teacher.parts[-3]}-{teacher.name}")
def test_committed_teachers_are_those_that_the_cells_learned_from(teacher):
    network, _ = load_run_network(teacher)
    taught = list((teacher.parents[1] / "cells").glob(f"{teacher.name}--*/*/*/teacher.json"))
    assert taught
    assert {json.loads(file.read_text())["sha256"] for file in taught} == {_hash(network)}

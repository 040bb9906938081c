import re
from pathlib import Path

import pytest

from cmkd.cli import main
from cmkd.report import group_runs
from tests.bench.grids import PAIR, cell_name, edit_config, write_grid


@pytest.fixture
def grid(tmp_path):
    return write_grid(tmp_path / "grid", {PAIR: {"KD": {0: 0.7, 1: 0.71}, "CMKD": {0: 0.72, 1: 0.75}}})


def test_a_grid_is_recognised_and_reported_into_its_folder(grid, capsys):
    assert main(["report", str(grid)]) == 0
    said = capsys.readouterr().out
    # differences 2 and 4: mean 3, deviation sqrt(2); 12.7062 for 1 degree of freedom, divided by sqrt(2)
    assert "+3.00 [-9.71, +15.71]" in said
    assert f"report: {grid / 'report.html'}" in said
    assert {"report.html", "table.md", "table.csv", "summary.csv", "table.tex"} <= {
        file.name for file in grid.iterdir()
    }
    assert f"figures: {grid / 'figures'}" in said
    assert {file.name for file in (grid / "figures").iterdir()} == {
        f"{name}.{suffix}"
        for name in ("test-accuracy", "difference-to-kd", "accuracy-over-the-epochs")
        for suffix in ("svg", "pdf", "png")
    }


def test_another_method_to_compare_with(grid, tmp_path, capsys):
    assert main(["report", str(grid), "--baseline", "CMKD"]) == 0
    said = capsys.readouterr().out
    assert "difference to CMKD (points)" in said
    assert "-3.00 [-15.71, +9.71]" in said
    assert main(["report", str(grid), "--baseline", "DIST"]) == 2
    assert "take KD, CMKD" in capsys.readouterr().err
    assert main(["report", str(grid / cell_name(*PAIR, "KD", 0)), "--baseline", "KD"]) == 2
    assert "leave it out" in capsys.readouterr().err


def test_title_and_folder_are_taken(grid, tmp_path, capsys):
    assert main(["report", str(grid), "--out", str(tmp_path / "out"), "--title", "Twelve pairs"]) == 0
    assert (tmp_path / "out" / "table.md").read_text(encoding="utf-8").startswith("# Twelve pairs\n")
    assert not (grid / "table.md").exists()


def test_the_figures_of_the_networks_are_one_command_away(grid, capsys):
    assert main(["report", str(grid)]) == 0
    (cells,) = re.findall(r"need the networks: cmkd report /(.+)", capsys.readouterr().out)
    runs = sorted(Path("/").glob(cells))  # what a shell does
    assert {method: len(seeds) for method, seeds in group_runs(runs).items()} == {"CMKD": 2, "KD": 2}


def test_what_cannot_be_reported_is_refused_without_a_traceback(grid, tmp_path, capsys):
    def refused(*arguments):
        assert main(["report", *map(str, arguments)]) == 2
        return capsys.readouterr().err

    assert "give it alone" in refused(grid, grid / cell_name(*PAIR, "KD", 0))
    assert f"cmkd report {grid / 'cells'}/*/*/*" in refused(grid, "--layout", "umap")
    assert "give a folder" in refused(grid, "--out", tmp_path / "page.html")
    (tmp_path / "taken").write_text("")
    assert "give a folder" in refused(grid, "--out", tmp_path / "taken")
    edit_config(grid / cell_name(*PAIR, "KD", 1), batch_size=256)
    assert "batch_size is 128 in the one and 256 in the other" in refused(grid)
    assert not (grid / "report.html").exists()
    assert not (tmp_path / "page.html").exists()

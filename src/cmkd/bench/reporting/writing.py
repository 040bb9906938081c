"""What `cmkd report GRID` does: read a grid, and write it down as Markdown, CSV, LaTeX and one HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cmkd.bench.reporting import latex, markdown, spreadsheets
from cmkd.bench.reporting.comparing import compare
from cmkd.bench.reporting.drawings import drawings
from cmkd.bench.reporting.heading import heading
from cmkd.bench.reporting.page import write_page
from cmkd.bench.reporting.results import read_grid
from cmkd.bench.reporting.tuning import trial_rows
from cmkd.bench.reporting.wording import tally
from cmkd.errors import InputError
from cmkd.files import write_atomic
from cmkd.report.records import count
from cmkd.report.static import save_figures


@dataclass(frozen=True)
class GridReport:
    """The report of a grid.

    Args:
        lead: What was run, in a sentence.
        tables: The tables of all pairs, as Markdown.
        files: The files that were written, the page first.
        figures: The folder of the figures as files.
    """

    lead: str
    tables: str
    files: list[Path]
    figures: Path


def report_grid(
    path: str | Path,
    out: str | Path | None = None,
    *,
    title: str | None = None,
    baseline: str | None = None,
) -> GridReport:
    """Write the report of a grid, finished or not.

    Args:
        path: Folder of the grid, as `cmkd bench` made it.
        out: Folder for the report; by default that of the grid.
        title: Title of the report; the grid's name by default.
        baseline: The method that the others are compared with; KD by default, if there is one.

    Returns:
        The report.

    Raises:
        InputError: The folder is no grid, it has no such method, `out` is no folder, a mean would be over
            runs of different budgets, or a file cannot be written; only in this last case files before it
            have been.
    """
    target = Path(path if out is None else out)
    if target.suffix == ".html" or target.is_file():
        raise InputError(f"--out {target} is a file; the report of a grid is several: give a folder.")
    grid = read_grid(path)
    pairs = compare(grid, baseline)
    setting = heading(grid, pairs)
    trials = trial_rows(grid)
    title = title or grid.name
    lead = (
        f"{count(len(pairs), 'pair')} of teacher and student, {count(len(grid.methods), 'method')}: "
        f"{tally(grid.cells)}. Scores are of the last epoch."
    )
    contents = {
        "table.md": markdown.document(title, lead, pairs, setting, trials, target),
        "table.csv": spreadsheets.cells_csv(pairs, target),
        "summary.csv": spreadsheets.summary_csv(pairs),
        "table.tex": latex.document(pairs, setting),
    }
    drawn = drawings(pairs, grid.methods)
    page = write_page(target / "report.html", title, lead, pairs, grid.methods, drawn, setting, trials)
    files = [write_atomic(target / name, content) for name, content in contents.items()]
    figures = target / "figures"
    save_figures(figures, drawn)
    return GridReport(lead, markdown.pair_tables(pairs), [page, *files], figures)

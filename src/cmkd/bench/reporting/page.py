"""The report of a grid as one HTML page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from cmkd.bench.reporting.comparing import Pair
from cmkd.bench.reporting.markdown import cell_row
from cmkd.bench.reporting.results import Cell
from cmkd.bench.reporting.tuning import TRIALS
from cmkd.bench.reporting.wording import OVERVIEW, links, overview, remarks, rows, trouble, unfinished
from cmkd.report.document import Document, marker, write_document
from cmkd.report.sections import Section
from cmkd.report.table import ABSENT

#: Columns whose text may be broken into lines.
_IN_WORDS = {"published (%)", "state", "unlike the others in"}


def write_page(
    out: Path,
    title: str,
    lead: str,
    pairs: Sequence[Pair],
    methods: Sequence[str],
    drawn: Sequence[Section],
    setting: Mapping[str, str],
    trials: Sequence[Mapping[str, str]],
) -> Path:
    """Write the page.

    Args:
        out: The file to write.
        title: Its title.
        lead: The paragraph below it.
        pairs: The pairs of the grid.
        methods: Its methods, in order.
        drawn: Its figures.
        setting: How it was measured: topic -> text.
        trials: Rows of the table of trials.

    Returns:
        The file.

    Raises:
        InputError: It cannot be written.
    """
    return write_document(
        out,
        Document(
            title=title,
            lead=lead,
            summary="\n".join(
                [*_overview(pairs, methods), *(_pair(pair, methods, out.parent) for pair in pairs)]
            ),
            sections=drawn,
            labels=methods,
            setting=setting,
            details_title="Cells",
            details="\n".join([*(_cells(pair, out.parent) for pair in pairs), *_tuning(trials)]),
        ),
    )


def _overview(pairs: Sequence[Pair], methods: Sequence[str]) -> list[str]:
    if len(pairs) == 1:
        return []
    table = overview(pairs)
    body = [_row(table[0], "", 'class="reference"')]
    body += [_row(row, marker(methods.index(method))) for method, row in zip(methods, table[1:], strict=True)]
    return [f'<h2>Overview</h2>\n{_table(table[0], body)}\n<p class="note">{html.escape(OVERVIEW)}</p>']


def _pair(pair: Pair, methods: Sequence[str], out: Path) -> str:
    table = rows(pair)
    shapes = ["", *(marker(methods.index(outcome.method)) for outcome in pair.outcomes)]
    body = [
        _row(row, shape, 'class="reference"' if position == 0 else "")
        for position, (row, shape) in enumerate(zip(table, shapes, strict=True))
    ]
    notes = [f"<li>{html.escape(remark)}</li>" for remark in remarks(pair)]
    notes += [f'<li class="problem">{_problem(cell, out)}</li>' for cell in unfinished(pair)]
    listed = f'\n<ul class="remarks">{"".join(notes)}</ul>' if notes else ""
    return f"<h2>{html.escape(pair.name)}</h2>\n{_table(table[0], body)}{listed}"


def _table(headings: Mapping[str, str], body: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{html.escape(heading)}</th>' for heading in headings)
    return (
        '<div class="wide-table" tabindex="0"><table class="summary dense">'
        f"<thead><tr>{head}</tr></thead><tbody>\n" + "\n".join(body) + "\n</tbody></table></div>"
    )


def _row(row: Mapping[str, str], shape: str = "", attributes: str = "", last: str = "") -> str:
    (_, name), *cells = row.items()
    data = "".join(
        f'<td data-heading="{html.escape(heading)}"{_kind(heading, text)}>{html.escape(text)}</td>'
        for heading, text in cells
    )
    return f'<tr {attributes}><th scope="row">{shape}{html.escape(name)}</th>{data}{last}</tr>'


def _kind(heading: str, text: str) -> str:
    if text == ABSENT:  # not worth a line on a narrow page
        return ' class="absent"'
    return ' class="words-in-it"' if heading in _IN_WORDS or heading.startswith("trial ") else ""


def _problem(cell: Cell, out: Path) -> str:
    name = html.escape(f"{cell.method}, seed {cell.seed}: {trouble(cell)}")
    linked = _links(cell, out)
    return f"{name} ({linked})" if linked else name


def _cells(pair: Pair, out: Path) -> str:
    cells = [(cell, cell_row(cell, outcome)) for outcome in pair.outcomes for cell in outcome.cells]
    body = [_row(row, last=f'<td data-heading="files">{_links(cell, out)}</td>') for cell, row in cells]
    headings = {**cells[0][1], "files": ""}
    return f"<details><summary>{html.escape(pair.name)}</summary>\n{_table(headings, body)}</details>"


def _tuning(trials: Sequence[Mapping[str, str]]) -> list[str]:
    if not trials:
        return []
    table = _table(trials[0], [_row(row) for row in trials])
    return [f'<h2>Tuning</h2>\n{table}\n<p class="note">{html.escape(TRIALS)}</p>']


def _links(cell: Cell, out: Path) -> str:
    return ", ".join(
        f'<a href="{html.escape(address)}">{name}</a>' for name, address in links(cell, out).items()
    )

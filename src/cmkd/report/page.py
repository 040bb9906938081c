"""One self-contained HTML page that compares methods, or shows a single run."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from pathlib import Path

from cmkd.report.document import Document, definitions, marker, write_document
from cmkd.report.measured import find_sources, measured_sections
from cmkd.report.records import Groups, Records, count, in_common, read_groups
from cmkd.report.sections import sections
from cmkd.report.setting import options_of, setting
from cmkd.report.static import save_figures
from cmkd.report.table import ABSENT, rows_of


def write_report(
    out: str | os.PathLike[str],
    groups: Groups,
    *,
    title: str,
    lead: str = "",
    problems: Mapping[Path, str] | None = None,
    figures: str | os.PathLike[str] | None = None,
    images: int = 0,
    layout: str | None = None,
) -> Path:
    """Write the page: a summary table, figures, and how everything was measured.

    The page needs no network. What a run did not measure is named in its place.

    Args:
        out: The file to write; its folder is created.
        groups: Method -> its runs, one per seed.
        title: Title of the page.
        lead: The paragraph below it; by default it says what was run.
        problems: Draw the figures that need details of the runs as well, and say there which run could not
            be measured, and why (what `measure_missing` returns); None leaves them out.
        figures: Folder for the figures as files; none are written by default.
        images: Where several runs of a method have details, prefer those of so many images; 0 for any number.
        layout: Likewise prefer features laid out by `tsne` or `umap`; None for either.

    Returns:
        The file.

    Raises:
        InputError: A folder is no run, or the file cannot be written.
    """
    records = read_groups(groups)
    drawn = sections(records)
    if problems is not None:
        drawn += measured_sections(find_sources(records, problems, images=images, layout=layout))
    if figures is not None:
        save_figures(Path(figures), drawn)
    return write_document(
        Path(out),
        Document(
            title=title,
            lead=lead or _default_lead(records),
            summary=_summary(records),
            sections=drawn,
            labels=list(records),
            setting=setting(records),
            details_title="Options of every run",
            details=_runs(records),
        ),
    )


def _default_lead(records: Records) -> str:
    runs = sum(map(len, records.values()))
    network = in_common(records, lambda run: str(run.config.get("student") or run.config.get("model")))
    data = in_common(records, lambda run: str(run.config.get("data")))
    methods = f" by {count(len(records), 'method')}" if len(records) > 1 else ""
    return f"{count(runs, 'run')}: {network} trained on {data}{methods}."


def _summary(records: Records) -> str:
    rows = rows_of(records)
    headings = "".join(f'<th scope="col">{html.escape(heading)}</th>' for heading in rows[0])
    first_method = len(rows) - len(records)
    body = []
    for position, row in enumerate(rows):
        (_, name), *cells = row.items()
        is_teacher = position < first_method
        kind = ' class="reference"' if is_teacher else ""
        shape = "" if is_teacher else marker(position - first_method)
        numbers = "".join(
            f'<td data-heading="{html.escape(heading)}">{html.escape(text)}</td>' for heading, text in cells
        )
        body.append(f'<tr{kind}><th scope="row">{shape}{html.escape(name)}</th>{numbers}</tr>')
    table = "\n".join(body)
    dash = " A dash: not measured." if any(ABSENT in row.values() for row in rows) else ""
    return (
        f'<table class="summary"><thead><tr>{headings}</tr></thead><tbody>\n{table}\n</tbody></table>\n'
        f'<p class="note">Test set, network of the last epoch. {_spread_note(records)}{dash}</p>'
    )


def _spread_note(records: Records) -> str:
    if any(len(runs) > 1 for runs in records.values()):
        return "Mean ± sample standard deviation over the runs of a method, where it has several."
    if len(records) > 1:
        return (
            "One run per method: a difference between two methods may be no more than that between two seeds."
        )
    return "One run."


def _runs(records: Records) -> str:
    parts = []
    for label, runs in records.items():
        for run in runs:
            name = html.escape(f"{label}, seed {run.config.get('seed')} ({run.path.name})")
            parts.append(f"<details><summary>{name}</summary>\n{definitions(options_of(run))}</details>")
    return "\n".join(parts)

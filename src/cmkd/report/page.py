"""One self-contained HTML page that compares methods, or shows a single run."""

from __future__ import annotations

import base64
import gzip
import html
import itertools
import json
import os
from functools import lru_cache
from importlib import resources
from pathlib import Path
from string import Template

from cmkd.files import write_atomic
from cmkd.report import palette
from cmkd.report.figures import Panel
from cmkd.report.records import Groups, Records, count, in_common, read_groups
from cmkd.report.sections import Section, sections
from cmkd.report.setting import options_of, setting
from cmkd.report.table import ABSENT, rows_of


def write_report(out: str | os.PathLike[str], groups: Groups, *, title: str, lead: str = "") -> Path:
    """Write the page: a summary table, figures, and how everything was measured.

    The page needs no network: plotly.js travels inside it, once, compressed (about 2 MB). What a run
    did not measure is named in its place.

    Args:
        out: The file to write; its folder is created.
        groups: Method -> its runs, one per seed.
        title: Title of the page.
        lead: The paragraph below it; by default it says what was run.

    Returns:
        The file.

    Raises:
        InputError: A folder is no run, or the file cannot be written.
    """
    records = read_groups(groups)
    drawn = sections(records)
    panels = [panel for section in drawn for panel in section.panels]
    template = Template(resources.files("cmkd.report").joinpath("page.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=html.escape(title),
        lead=html.escape(lead or _default_lead(records)),
        light=palette.css_variables(palette.LIGHT),
        dark=palette.css_variables(palette.DARK),
        summary=_summary(records),
        figures=_figures(drawn, list(records)),
        figure_json=_figure_json(panels),
        setting=_definitions(setting(records)),
        runs=_runs(records),
        plotly=_plotly(),
    )
    return write_atomic(Path(out), page.encode("utf-8"))


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
        marker = "" if is_teacher else _marker(position - first_method)
        numbers = "".join(
            f'<td data-heading="{html.escape(heading)}">{html.escape(text)}</td>' for heading, text in cells
        )
        body.append(f'<tr{kind}><th scope="row">{marker}{html.escape(name)}</th>{numbers}</tr>')
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


def _marker(index: int) -> str:
    style = f"color: {palette.css_color(index)}"
    return f'<span class="marker" style="{style}" aria-hidden="true">{palette.text_marker(index)}</span>'


def _figures(drawn: list[Section], labels: list[str]) -> str:
    names = "".join(f"<li>{_marker(index)}{html.escape(label)}</li>" for index, label in enumerate(labels))
    key = f'<ul class="key" aria-label="Key">{names}</ul>\n' if len(labels) > 1 else ""
    numbers = itertools.count()
    parts = []
    for section in drawn:
        panels = "\n".join(_panel(panel, next(numbers)) for panel in section.panels)
        needed = section.key and any(panel.figure is not None for panel in section.panels)
        parts.append(
            f"<section>\n<h2>{html.escape(section.title)}</h2>\n<figure>\n{key if needed else ''}"
            f'<div class="panels">\n{panels}\n</div>\n'
            f"<figcaption>{html.escape(section.caption)}</figcaption>\n</figure>\n</section>"
        )
    return "\n".join(parts)


def _panel(panel: Panel, number: int) -> str:
    title, words = html.escape(panel.title), html.escape(panel.words)
    if panel.figure is None:
        content = f'<p class="missing">{words}</p>'
    else:
        shown = " shown" if panel.told else ""
        content = (
            f'<div class="plot" data-figure="{number}" role="img" aria-label="{title}. {words}"></div>\n'
            f'<p class="words{shown}">{words}</p>'
        )
    return f'<div class="panel{" wide" if panel.wide else ""}">\n<h3>{title}</h3>\n{content}\n</div>'


def _figure_json(panels: list[Panel]) -> str:
    drawings = [None if panel.figure is None else json.loads(panel.figure.to_json()) for panel in panels]
    # Inside a script element, only "<" could end it.
    return json.dumps(drawings, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


@lru_cache(maxsize=1)
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode("utf-8"), compresslevel=9, mtime=0)).decode(
        "ascii"
    )


def _definitions(items: dict[str, str]) -> str:
    rows = "\n".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(text)}</td></tr>'
        for name, text in items.items()
    )
    return f'<table class="setting"><tbody>\n{rows}\n</tbody></table>'


def _runs(records: Records) -> str:
    parts = []
    for label, runs in records.items():
        for run in runs:
            name = html.escape(f"{label}, seed {run.config.get('seed')} ({run.path.name})")
            parts.append(f"<details><summary>{name}</summary>\n{_definitions(options_of(run))}</details>")
    return "\n".join(parts)

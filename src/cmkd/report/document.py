"""The one HTML page that every report is: words, tables and figures, with all that draws them inside."""

from __future__ import annotations

import base64
import gzip
import html
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from string import Template

from cmkd.files import write_atomic
from cmkd.report import palette
from cmkd.report.figures import Panel
from cmkd.report.pictures import gallery
from cmkd.report.sections import Section


@dataclass(frozen=True)
class Document:
    """What a page says.

    Args:
        title: Its title.
        lead: The paragraph below it.
        summary: What comes first, as HTML.
        sections: Its figures.
        labels: Methods, in the order that gives them their colours and markers.
        setting: How it was measured: topic -> text.
        details_title: Title of what comes last.
        details: What comes last, as HTML.
    """

    title: str
    lead: str
    summary: str
    sections: Sequence[Section]
    labels: Sequence[str]
    setting: Mapping[str, str]
    details_title: str
    details: str


def write_document(out: Path, document: Document) -> Path:
    """Write a page that needs no network: plotly.js travels inside it, compressed (about 2 MB).

    Args:
        out: The file to write; its folder is created.
        document: What it says.

    Returns:
        The file.

    Raises:
        InputError: The file cannot be written.
    """
    panels = [panel for section in document.sections for panel in section.panels]
    template = Template(resources.files("cmkd.report").joinpath("page.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=html.escape(document.title),
        lead=html.escape(document.lead),
        light=palette.css_variables(palette.LIGHT),
        dark=palette.css_variables(palette.DARK),
        summary=document.summary,
        figures=_figures(document.sections, document.labels),
        figure_json=_figure_json(panels),
        setting=definitions(document.setting),
        details_title=html.escape(document.details_title),
        details=document.details,
        plotly=_plotly(),
    )
    return write_atomic(out, page.encode("utf-8"))


def definitions(items: Mapping[str, str]) -> str:
    """Return a table of topics and texts as HTML."""
    rows = "\n".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(text)}</td></tr>'
        for name, text in items.items()
    )
    return f'<table class="setting"><tbody>\n{rows}\n</tbody></table>'


def marker(index: int) -> str:
    """Return the marker of the method at a position, in its colour, as HTML."""
    style = f"color: {palette.css_color(index)}"
    return f'<span class="marker" style="{style}" aria-hidden="true">{palette.text_marker(index)}</span>'


def _figures(drawn: Sequence[Section], labels: Sequence[str]) -> str:
    names = "".join(f"<li>{marker(index)}{html.escape(label)}</li>" for index, label in enumerate(labels))
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
    if panel.pictures:
        content = f'{gallery(panel.pictures, large=panel.large)}\n<p class="words shown">{words}</p>'
    elif panel.figure is None:
        content = f'<p class="missing">{words}</p>'
    else:
        shown = " shown" if panel.told else ""
        height = "" if panel.height is None else f' style="height: {panel.height:g}rem"'
        content = (
            f'<div class="plot" data-figure="{number}" role="img" aria-label="{title}. {words}"'
            f"{height}></div>\n"
            f'<p class="words{shown}">{words}</p>'
        )
    return f'<div class="panel{" wide" if panel.wide else ""}">\n<h3>{title}</h3>\n{content}\n</div>'


def _figure_json(panels: Sequence[Panel]) -> str:
    drawings = [None if panel.figure is None else json.loads(panel.figure.to_json()) for panel in panels]
    return _packed(json.dumps(drawings, separators=(",", ":")))


@lru_cache(maxsize=1)
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return _packed(get_plotlyjs())


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode("utf-8"), compresslevel=9, mtime=0)).decode("ascii")

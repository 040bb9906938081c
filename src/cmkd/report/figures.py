"""Curves over the epochs, drawn from the records of runs, each with what it shows in words."""

from __future__ import annotations

import html
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cmkd.report.palette import PLOTLY_MARKERS, css_color
from cmkd.report.pictures import Picture
from cmkd.report.records import Records, pooled

if TYPE_CHECKING:
    import plotly.graph_objects as go

#: More markers than this on a line and they hide it.
MOST_MARKERS = 12


@dataclass(frozen=True)
class Panel:
    """One drawing.

    Args:
        title: What is drawn, with its unit.
        figure: The drawing; None if there is nothing to draw.
        words: What it shows, for whoever cannot see it, or why there is none.
        wide: Whether it deserves the page's full width.
        told: Whether the words are for everybody, as part of the caption.
        height: Height in rem, if it depends on what is drawn.
        pictures: Images of the data, in place of a drawing.
        large: Whether these are shown large.
    """

    title: str
    figure: go.Figure | None
    words: str
    wide: bool = False
    told: bool = False
    height: float | None = None
    pictures: tuple[Picture, ...] = ()
    large: bool = False


@dataclass(frozen=True)
class Quantity:
    """Something measured once per epoch.

    Args:
        keys: Where it is in a row of `metrics.jsonl`.
        form: Its format, of Python and of D3 alike.
        name: What it is called beside others of the same method; its line is then drawn as `dash` says.
        dash: Line style.
        faint: Whether it stays in the background: thin, without markers.
    """

    keys: tuple[str, ...]
    form: str
    name: str = ""
    dash: str = "solid"
    faint: bool = False


def over_epochs(
    title: str,
    records: Records,
    quantities: Sequence[Quantity],
    *,
    references: Mapping[str, float] | None = None,
    absent: str,
    wide: bool = False,
    log: bool = False,
    merge: bool = False,
) -> Panel:
    """Draw quantities over the epochs, a line per method and quantity, with the range over its runs.

    Args:
        title: Title of the panel.
        records: Method -> its runs.
        quantities: What to draw; the first one is what the words tell.
        references: Constants to draw as dotted lines, by name.
        absent: What to say if no run measured any of it.
        wide: Whether the panel takes the full width.
        log: Whether the vertical axis is logarithmic, if every value is positive.
        merge: Whether methods whose curves are all the same get one line.

    Returns:
        The panel, without a drawing if there are not two epochs to join.
    """
    curves = {
        (label, quantity): curve
        for label, runs in records.items()
        for quantity in quantities
        if (curve := pooled(runs, *quantity.keys))
    }
    if not curves:
        return Panel(title, None, absent, wide)
    colors = {label: css_color(index) for index, label in enumerate(records)}
    ranges = [
        {epoch: (min(values), max(values)) for epoch, values in curve.items()} for curve in curves.values()
    ]
    if merge and len(ranges) > 1 and all(range_ == ranges[0] for range_ in ranges):
        curves = {("all methods", quantities[0]): next(iter(curves.values()))}
        colors = {"all methods": "var(--ink-soft)"}
        title += ", the same for all methods"
    references = references or {}
    words = _last_values(curves, references, quantities)
    epochs = sorted({epoch for curve in curves.values() for epoch in curve})
    if len(epochs) == 1:
        return Panel(title, None, f"One epoch only, so there is no curve. {words}", wide)

    positive = all(value > 0 for curve in curves.values() for values in curve.values() for value in values)
    percent = quantities[0].form.endswith("%")
    figure = canvas(ticks="~%" if percent else None, epochs=len(epochs), log=log and positive)
    for name, value in references.items():
        figure.add_scatter(
            x=[epochs[0], epochs[-1]],
            y=[value, value],
            name=html.escape(name),
            mode="lines",
            line={"color": "var(--ink-soft)", "width": 1.5, "dash": "dot"},
            hovertemplate=f"%{{y:{quantities[0].form}}}",
        )
    for index, (label, color) in enumerate(colors.items()):
        marker = PLOTLY_MARKERS[index % len(PLOTLY_MARKERS)]
        for quantity in quantities:
            if (label, quantity) in curves:
                _add_curve(figure, label, quantity, curves[label, quantity], color=color, marker=marker)
    return Panel(title, figure, words, wide)


def _add_curve(
    figure: go.Figure,
    label: str,
    quantity: Quantity,
    curve: Mapping[int, Sequence[float]],
    *,
    color: str,
    marker: str,
) -> None:
    epochs = list(curve)
    if any(len(values) > 1 for values in curve.values()) and not quantity.faint:
        figure.add_scatter(
            x=epochs + epochs[::-1],
            y=[max(curve[epoch]) for epoch in epochs] + [min(curve[epoch]) for epoch in epochs[::-1]],
            fill="toself",
            fillcolor=color,
            opacity=0.18,
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
        )
    name = f"{label}, {quantity.name}" if quantity.name else label
    figure.add_scatter(
        x=epochs,
        y=[statistics.fmean(values) for values in curve.values()],
        name=html.escape(name),  # plotly reads a name as markup
        mode="lines" if quantity.faint else "lines+markers",
        opacity=0.75 if quantity.faint else 1.0,
        line={"color": color, "width": 1.25 if quantity.faint else 2.25, "dash": quantity.dash},
        marker={
            "symbol": marker,
            "size": 7,
            "color": color,
            "maxdisplayed": MOST_MARKERS,
        },
        hovertemplate=f"%{{y:{quantity.form}}}",
    )


def _last_values(
    curves: Mapping[tuple[str, Quantity], Mapping[int, Sequence[float]]],
    references: Mapping[str, float],
    quantities: Sequence[Quantity],
) -> str:
    """Put the end of every curve that is not faint into words."""
    told = []
    for (label, quantity), curve in curves.items():
        if not quantity.faint:
            name = f"{label}, {quantity.name}" if quantity.name else label
            told.append(f"{name} {format(statistics.fmean(curve[max(curve)]), quantity.form)}")
    told += [f"{name} {format(value, quantities[0].form)}" for name, value in references.items()]
    return f"Last epoch: {'; '.join(told)}."


def canvas(*, ticks: str | None, epochs: int | None, log: bool = False) -> go.Figure:
    """Return an empty drawing; its colours are variables of the page, so that it follows light and dark."""
    import plotly.graph_objects as go

    axis = {
        "gridcolor": "var(--rule)",
        "linecolor": "var(--rule)",
        "zeroline": False,
        "automargin": True,
        "fixedrange": True,
        "title_standoff": 8,
        "title_font_size": 13,
    }
    figure = go.Figure()
    figure.update_layout(
        template=go.layout.Template(),  # the default one is 7 kB of colours for charts that are not here
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13},
        font_color="var(--ink-soft)",
        margin={"l": 8, "r": 12, "t": 8, "b": 8},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font_color": "var(--ink)"},
        showlegend=False,  # the page names the methods once for all panels of a figure
        hovermode="x unified",
        hoverlabel={"bgcolor": "var(--paper)", "bordercolor": "var(--rule)", "font_color": "var(--ink)"},
        dragmode=False,
    )
    figure.update_xaxes(**axis, showgrid=False, ticks="outside", tickcolor="var(--rule)")
    figure.update_yaxes(**axis, tickformat=ticks, nticks=6)
    if log:
        figure.update_yaxes(type="log", dtick="D2", tickformat="~g")  # 1, 2, 5, 10, written out
    if epochs is not None:
        figure.update_xaxes(title_text="epoch", dtick=1 if epochs <= 10 else None, tickformat="d")
    return figure

"""A plotly drawing on matplotlib's axes: the kinds of traces and axes that the page's figures consist of."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any

from cmkd.report.palette import LIGHT, MATPLOTLIB_MARKERS, PLOTLY_MARKERS
from cmkd.report.picture import INK, INK_SOFT, RULE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import plotly.graph_objects as go
    from matplotlib.axes import Axes

#: With more names than this a key would leave no room for the drawing.
MOST_NAMES = 24

_MARKERS = dict(zip(PLOTLY_MARKERS, MATPLOTLIB_MARKERS, strict=True)) | {"star": "*", "line-ns-open": "|"}
_ERRORS = ("error_x", "error_y")
_DASHES = {"solid": "-", "dash": "--", "dot": ":"}
_COLORS = {"ink": INK, "ink-soft": INK_SOFT, "rule": RULE, "paper": "#ffffff", "sheet": "#f6f7f8"}


def color_of(value: str) -> str:
    """Return a colour of the page, which is named by a variable, as it is on white paper.

    Example:
        >>> color_of("var(--method-0)"), color_of("var(--paper)"), color_of("#123456")
        ('#0072B2', '#ffffff', '#123456')
    """
    found = re.fullmatch(r"var\(--([a-z-]+?)(?:-(\d+))?\)", value)
    if not found:
        return value
    return LIGHT[int(found[2])] if found[1] == "method" else _COLORS[found[1]]


def draw(axes: Axes, figure: go.Figure, *, key: bool) -> None:
    """Draw what a plotly figure describes.

    Args:
        axes: Where.
        figure: The drawing.
        key: Whether its lines are told apart by a key, which the page has once for all panels.
    """
    across, along = figure.layout.xaxis, figure.layout.yaxis
    if across.type == "log":
        axes.set_xscale("log")
    if along.type == "log":
        axes.set_yscale("log")
    places = _Places(axes, figure)
    stacked: dict[float, float] = {}
    for trace in figure.data:
        if trace.type == "scatter":
            _scatter(axes, trace, places)
        elif trace.type == "bar":
            _bars(axes, trace, stacked if figure.layout.barmode == "stack" else {})
        else:
            _heatmap(axes, trace, places)
    for shape in figure.layout.shapes:  # vertical lines
        axes.axvline(shape.x0, color=color_of(shape.line.color), lw=1, ls=":", zorder=1)
    _finish(axes, figure, places)
    handles, labels = axes.get_legend_handles_labels()
    if 1 < len(labels) <= MOST_NAMES and (key or figure.layout.showlegend):
        # Among many points or names there is no room for it, and looking for some takes long.
        dense = len(labels) > 8 or sum(len(trace.x) for trace in figure.data) > 500
        style: dict[str, Any] = {"labelcolor": INK, "frameon": False}
        if dense:
            style |= {"ncols": 3, "fontsize": 6, "columnspacing": 0.8, "handletextpad": 0.2}
            axes.figure.legend(handles, labels, loc="outside lower center", **style)
        else:
            axes.legend(handles, labels, ncols=2 if len(labels) > 3 else 1, fontsize=7, **style)


class _Places:
    """Categories of both axes as numbers, from the order that the drawing asks for."""

    def __init__(self, axes: Axes, figure: go.Figure) -> None:
        self._order: dict[str, dict[str, int]] = {}
        for name, axis in (("x", figure.layout.xaxis), ("y", figure.layout.yaxis)):
            if axis.type == "category":
                seen = [str(value) for trace in figure.data for value in trace[name]]
                listed = list(dict.fromkeys([*(axis.categoryarray or ()), *seen]))
                self._order[name] = {each: place for place, each in enumerate(listed)}
                if axis.showticklabels is not False:
                    ticks = [html.unescape(each) for each in listed]
                    if name == "x":
                        slanted: dict[str, Any] = (
                            {"rotation": 35, "ha": "right"} if sum(map(len, ticks)) > 40 else {}
                        )
                        axes.set_xticks(range(len(ticks)), ticks, **slanted)
                    else:
                        axes.set_yticks(range(len(ticks)), ticks)

    def __call__(self, name: str, values: Sequence[Any]) -> list[Any]:
        order = self._order.get(name)
        return list(values) if order is None else [order[str(value)] for value in values]


def _scatter(axes: Axes, trace: Any, places: _Places) -> None:
    x, y = places("x", trace.x), places("y", trace.y)
    opacity = 1.0 if trace.opacity is None else trace.opacity
    if trace.fill == "toself":
        axes.fill(x, y, color=color_of(trace.fillcolor), alpha=opacity, lw=0)
        return
    mode, marker = trace.mode, trace.marker
    lines, dots = "lines" in mode, "markers" in mode
    color = color_of(trace.line.color if lines else marker.color)
    across, along = (None if (found := trace[name].array) is None else list(found) for name in _ERRORS)
    if across is not None or along is not None:
        axes.errorbar(x, y, xerr=across, yerr=along, fmt="none", ecolor=color, lw=1, capsize=2)
    axes.plot(
        x,
        y,
        ls=_DASHES[trace.line.dash or "solid"] if lines else "",
        lw=0.7 * (trace.line.width or 2) if lines else 0,
        drawstyle="steps-post" if trace.line.shape == "hv" else "default",
        marker=_MARKERS[marker.symbol or "circle"] if dots else "",
        ms=0.62 * (marker.size or 6),
        markevery=max(1, len(x) // (marker.maxdisplayed or len(x) or 1)),
        color=color,
        alpha=(1.0 if marker.opacity is None else marker.opacity) * opacity,
        label=_label(trace),
    )
    for text, left, low in zip(trace.text if "text" in mode else (), x, y, strict=False):
        axes.annotate(text, (left, low), (0, 4), textcoords="offset points", ha="center", color=INK)


def _label(trace: Any) -> str:
    """Return a name for the key; matplotlib leaves out those that begin with an underscore."""
    if trace.showlegend is False or not trace.name:
        return "_nolegend_"
    return html.unescape(trace.name).lstrip("_")


def _bars(axes: Axes, trace: Any, stacked: dict[float, float]) -> None:
    bottom = [stacked.get(x, 0.0) for x in trace.x]
    color = color_of(trace.marker.color)
    axes.bar(
        list(trace.x),
        list(trace.y),
        width=trace.width,
        bottom=bottom,
        color=color,
        alpha=trace.marker.opacity,
        label=_label(trace),
    )
    stacked.update({x: low + y for x, low, y in zip(trace.x, bottom, trace.y, strict=True)})


def _heatmap(axes: Axes, trace: Any, places: _Places) -> None:
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap

    z = np.array([[np.nan if value is None else value for value in row] for row in trace.z], dtype=float)
    scale = [(at, color_of(color)) for at, color in trace.colorscale]
    x, y = places("x", trace.x), places("y", trace.y)
    image = axes.pcolormesh(
        x,
        y,
        z,
        shading="nearest",
        cmap=LinearSegmentedColormap.from_list("page", scale, N=1024),
        vmin=trace.zmin,
        vmax=trace.zmax,
        alpha=trace.opacity,
        rasterized=True,
    )
    axes.grid(visible=False)
    axes.set_aspect("equal")
    flat = trace.colorbar.orientation == "h"
    bar = axes.figure.colorbar(image, ax=axes, location="bottom" if flat else "right", shrink=0.8, aspect=30)
    bar.outline.set_visible(False)
    if trace.colorbar.tickvals is not None:
        names = [html.unescape(name) for name in trace.colorbar.ticktext]
        bar.set_ticks(list(trace.colorbar.tickvals), labels=names)
        bar.ax.tick_params(labelsize=6, labelrotation=30 if flat else 0)


def _finish(axes: Axes, figure: go.Figure, places: _Places) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    for name, axis, ticks in (
        ("x", figure.layout.xaxis, axes.xaxis),
        ("y", figure.layout.yaxis, axes.yaxis),
    ):
        if axis.title.text:
            ticks.set_label_text(html.unescape(axis.title.text))
        if (axis.tickformat or "").endswith("%"):
            ticks.set_major_formatter(PercentFormatter(1.0, decimals=None))
        if axis.showticklabels is False:
            ticks.set_ticks([])
        elif axis.dtick == 1 and axis.type != "category":
            ticks.set_major_locator(MaxNLocator(integer=True))
        ticks.grid(visible=axis.showgrid is not False and figure.data[0].type != "heatmap")
        low = {"left": 0.0} if name == "x" else {"bottom": 0.0}
        set_limits = axes.set_xlim if name == "x" else axes.set_ylim
        if axis.range is not None:
            set_limits(*axis.range)
        elif axis.rangemode == "tozero":
            set_limits(**low)  # type: ignore[arg-type]
        if axis.autorange == "reversed":
            ticks.set_inverted(True)

"""The picture of what `benchmarks/ranking.py` measured: time beside KL, and memory."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from ranking_machine import in_words
from ranking_tables import ratio

from cmkd.report.palette import LIGHT, MATPLOTLIB_MARKERS
from cmkd.report.picture import INK, INK_SOFT, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The order of the colours; a pure version shares the colour and the marker of its compiled one.
COLORED = ("binned", "torchsort", "laplace", "l2", "cmkd", "torchpsort")


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the picture as PNG and SVG beside `path`, whose suffix is added.

    Args:
        result: What was measured.
        path: Where to, without suffix.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 5.4), dpi=100, facecolor="white", layout="constrained")
        left, right = figure.subplots(1, 2)
        _times(left, result)
        _memory(right, result)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8.5)
        figure.suptitle(in_words(result["machine"]), x=0.01, ha="left", fontsize=8.5, color=INK_SOFT)
        figure.savefig(path.with_suffix(".png"), dpi=160, metadata={"Software": None})
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None, "Creator": None})


def _times(axes: Axes, result: dict[str, Any]) -> None:
    sizes = result["sizes"]
    axes.set_title("Time of a step, in multiples of KL's (forward and backward)")
    for key, title in result["titles"].items():
        values = [ratio(size, key, "kl") or math.nan for size in sizes]
        axes.plot(range(len(sizes)), values, label=title, **_look(key))
    kl = [f"{1e3 * median(size['seconds']['kl']):.2g} ms" for size in sizes]
    names = [f"{size['rows']} x {size['classes']}\nKL {ms}" for size, ms in zip(sizes, kl, strict=True)]
    _dress(axes, names)


def _memory(axes: Axes, result: dict[str, Any]) -> None:
    sizes = [size for size in result["sizes"] if size["memory"]]
    axes.set_title("Peak extra memory, in multiples of the logits")
    for key in result["titles"]:
        values = [size["memory"].get(key) or math.nan for size in sizes]
        axes.plot(range(len(sizes)), values, **_look(key))
    if not sizes:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=INK_SOFT)
        axes.set_axis_off()
        return
    _dress(axes, [f"{size['rows']} x {size['classes']}" for size in sizes])


def _dress(axes: Axes, names: list[str]) -> None:
    from matplotlib.ticker import LogFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.7)))
    axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.7)))
    axes.set_xticks(range(len(names)), names, fontsize=7.5)
    axes.set_xlim(-0.4, len(names) - 0.6)
    axes.grid(axis="y")


def _look(key: str) -> dict[str, Any]:
    base = key.removesuffix("-pure")
    if base not in COLORED:
        marker = "+" if base == "kl" else "x"
        return {"color": INK, "marker": marker, "markersize": 7, "linestyle": ":", "linewidth": 1.4}
    index = COLORED.index(base)
    pure = key != base
    return {
        "color": LIGHT[index],
        "marker": MATPLOTLIB_MARKERS[index],
        "markersize": 6,
        "markerfacecolor": "white" if pure else LIGHT[index],
        "linestyle": "--" if pure else "-",
        "linewidth": 1.3 if pure else 1.9,
    }

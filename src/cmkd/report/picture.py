"""A picture of a comparison for a README: test accuracy, and the likeness to the teacher over the epochs."""

from __future__ import annotations

import io
import os
import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmkd.files import write_atomic
from cmkd.report.palette import LIGHT, MATPLOTLIB_MARKERS
from cmkd.report.records import Groups, Records, count, in_common, mean_and_spread, pooled, read_groups
from cmkd.report.table import teachers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, INK_SOFT, RULE = "#1b1f24", "#59626d", "#dde1e6"
STYLE: Any = {
    "font.family": "DejaVu Sans",  # matplotlib brings it along: the same picture everywhere
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,  # a dollar in a label is a dollar
    "axes.labelcolor": INK_SOFT,
    "axes.edgecolor": RULE,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": INK_SOFT,
    "ytick.color": INK_SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "svg.hashsalt": "cmkd",  # element names that do not change from one writing to the next
}


def save_picture(path: str | os.PathLike[str], groups: Groups, *, title: str) -> tuple[Path, Path]:
    """Draw the comparison, about 1000 x 380 pixels, as PNG (twice that size) and as SVG.

    The same runs give the same bytes with the same version of matplotlib.

    Args:
        path: Where to, with or without the suffix `.png` or `.svg`.
        groups: Method -> its runs, one per seed.
        title: Title of the picture.

    Returns:
        The PNG and the SVG.

    Raises:
        InputError: A folder is no run, or a file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    records = read_groups(groups)
    target = Path(path)
    stem = target.name.removesuffix(".png").removesuffix(".svg")
    with matplotlib.rc_context(STYLE):
        layout = ConstrainedLayoutEngine(rect=(0.01, 0.11, 0.98, 0.76), wspace=0.08)
        figure = Figure(figsize=(10, 3.8), dpi=100, facecolor="white", layout=layout)
        left, right = figure.subplots(1, 2)
        figure.text(0.018, 0.92, title, fontsize=13, fontweight="bold")
        figure.text(0.018, 0.03, _caption(records), fontsize=8.5, color=INK_SOFT, linespacing=1.4)
        _accuracies(left, records)
        _rank_correlations(right, records)
        png, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png", dpi=200, metadata={"Software": None})
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return (
        write_atomic(target.with_name(f"{stem}.png"), png.getvalue()),
        write_atomic(target.with_name(f"{stem}.svg"), svg.getvalue()),
    )


def _accuracies(axes: Axes, records: Records) -> None:
    """Draw a row per method: every run as a faint point, their mean and standard deviation."""
    axes.set_title("Test accuracy (%)")
    rows = len(records)
    for row, runs in enumerate(records.values()):
        values = [100 * value for run in runs if (value := run.measured("test", "accuracy")) is not None]
        look: dict[str, Any] = {
            "color": LIGHT[row % len(LIGHT)],
            "marker": MATPLOTLIB_MARKERS[row % len(MATPLOTLIB_MARKERS)],
        }
        if not values:
            axes.text(
                0.02, row, "not finished", transform=axes.get_yaxis_transform(), color=INK_SOFT, va="center"
            )
            continue
        mean, spread = mean_and_spread(values)
        if spread is not None:
            axes.plot(values, [row] * len(values), linestyle="none", markersize=5, alpha=0.35, **look)
        axes.errorbar([mean], [row], xerr=spread, markersize=8, capsize=3, linewidth=1.6, **look)
        text = f"{mean:.2f}" if spread is None else f"{mean:.2f} ± {spread:.2f}"
        axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=9)
    for record in teachers(records).values():
        accuracy = record.measured("teacher", "accuracy")
        if accuracy is not None:
            axes.axvline(100 * accuracy, color=INK_SOFT, linestyle=":", linewidth=1.4)
            axes.annotate(
                f"teacher {100 * accuracy:.2f}",
                (100 * accuracy, rows - 0.4),
                (-5, 0),
                textcoords="offset points",
                ha="right",
                va="bottom",
                fontsize=9,
                color=INK_SOFT,
            )
    axes.set_yticks(range(rows), [_name(label) for label in records], color=INK)
    axes.set_ylim(rows - 0.35, -0.6)
    axes.margins(x=0.14)
    axes.locator_params(axis="x", nbins=6)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)


def _rank_correlations(axes: Axes, records: Records) -> None:
    """Draw a line per method, named at its end, with the range over its runs."""
    from matplotlib.ticker import MaxNLocator

    axes.set_title("Rank correlation with the teacher, validation images")
    ends = []
    for index, (label, runs) in enumerate(records.items()):
        curve = pooled(runs, "validation", "rank_correlation")
        if not curve:
            continue
        epochs, color = list(curve), LIGHT[index % len(LIGHT)]
        means = [statistics.fmean(values) for values in curve.values()]
        if any(len(values) > 1 for values in curve.values()):
            lowest, highest = ([pick(values) for values in curve.values()] for pick in (min, max))
            axes.fill_between(epochs, lowest, highest, color=color, alpha=0.15, linewidth=0)
        marker = MATPLOTLIB_MARKERS[index % len(MATPLOTLIB_MARKERS)]
        marked = [*range(0, len(epochs), max(1, len(epochs) // 12)), len(epochs) - 1]
        axes.plot(epochs, means, color=color, marker=marker, markersize=5, markevery=marked, linewidth=2)
        ends.append((means[-1], epochs[-1], color, f"{_name(label)} {means[-1]:.3f}"))
    if not ends:
        said = "not measured: no run had a teacher\nand a validation part"
        axes.text(0.5, 0.5, said, transform=axes.transAxes, ha="center", va="center", color=INK_SOFT)
        axes.set_axis_off()
        return
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.locator_params(axis="y", nbins=5)
    axes.grid(axis="y")
    _name_ends(axes, ends)


def _name_ends(axes: Axes, ends: Sequence[tuple[float, int, str, str]]) -> None:
    """Write names beside the ends of lines, pushed apart where they would overlap.

    Args:
        axes: Where to.
        ends: Height and epoch where a line ends, its color and its name.
    """
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    apart = 0.085 * (high - low)
    ends = sorted(ends)
    heights: list[float] = []
    for value, *_ in ends:
        heights.append(max([value, *(height + apart for height in heights[-1:])]))
    ceiling = high
    for index in reversed(range(len(ends))):
        heights[index] = min(heights[index], ceiling)
        ceiling = heights[index] - apart
    for height, (value, epoch, color, text) in zip(heights, ends, strict=True):
        axes.annotate(
            text,
            (epoch, value),
            (1.06, height),
            textcoords=axes.get_yaxis_transform(),
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 1,
                "relpos": (0, 0.5),
                "shrinkA": 2,
                "shrinkB": 2,
            },
            va="center",
            fontsize=9,
            annotation_clip=False,
        )


def _caption(records: Records) -> str:
    """Return the setting, in one or two lines."""
    network = in_common(records, lambda run: str(run.config.get("student") or run.config.get("model")))
    data = in_common(records, lambda run: str(run.config.get("data")))
    epochs = in_common(records, lambda run: count(run.config["epochs"], "epoch"))
    images = in_common(
        records,
        lambda run: (
            "not finished" if run.result is None else count(run.result.get("images", 0), "test image")
        ),
    )
    sizes = sorted({len(runs) for runs in records.values()})
    seeds = count(sizes[0], "seed") if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} seeds"
    spread = " (mean ± standard deviation; faint: single runs)" if sizes[-1] > 1 else ""
    text = f"{network} on {data}, {epochs}, {seeds} per method{spread}; last epoch, {images}"
    return "\n".join(textwrap.wrap(text, width=150))


def _name(label: str) -> str:
    """Keep a long name from taking the place of the drawing."""
    return textwrap.shorten(label, width=28, placeholder=" …")

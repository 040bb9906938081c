"""The picture of what `benchmarks/throughput.py` measured: what a training step's time goes into."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from ranking_machine import in_words
from throughput_tables import PHASES, split

from cmkd.report.palette import LIGHT
from cmkd.report.picture import INK, INK_SOFT, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = dict(zip(PHASES, (*LIGHT[:5], "#b6bdc6"), strict=True))


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the picture as PNG and SVG beside `path`, whose suffix is added.

    Args:
        result: What was measured.
        path: Where to, without suffix.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    pairs = result["pairs"]
    with matplotlib.rc_context(STYLE):
        bars = max(len(pair["contestants"]) for pair in pairs)
        size = (4.2 + 3.6 * len(pairs), 1.9 + 0.33 * bars)
        figure = Figure(figsize=size, dpi=100, facecolor="white", layout="constrained")
        all_axes = figure.subplots(1, len(pairs), squeeze=False)[0]
        for axes, pair in zip(all_axes, pairs, strict=True):
            _bars(axes, pair, result["titles"], named=axes is all_axes[0])
        handles = [Patch(color=color, label=phase) for phase, color in COLORS.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
        figure.suptitle(
            in_words(result["machine"]), x=0.01, ha="left", fontsize=7.5, color=INK_SOFT, wrap=True
        )
        figure.savefig(path.with_suffix(".png"), dpi=160, metadata={"Software": None})
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None, "Creator": None})


def _bars(axes: Axes, pair: dict[str, Any], titles: dict[str, str], *, named: bool) -> None:
    """Draw the median step of every contestant, parted as in its turn of split time."""
    keys = [key for key in titles if key in pair["contestants"]]
    longest = 0.0
    for place, key in enumerate(keys):
        found = pair["contestants"][key]
        phases, step, left = split(found["split"]), 1e3 * median(found["seconds"]), 0.0
        for phase, seconds in phases.items():
            width = step * seconds / sum(phases.values())
            axes.barh(place, width, left=left, color=COLORS[phase], height=0.7)
            left += width
        rate = f"{pair['batch_size'] / step * 1e3:,.0f} images/s"
        axes.annotate(
            rate, (step, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8, color=INK
        )
        longest = max(longest, step)
    axes.set_title(
        f"{pair['teacher']} to {pair['student']}\n{pair['title']}, batch {pair['batch_size']}", fontsize=9
    )
    axes.set_yticks(range(len(keys)), [titles[key] if named else "" for key in keys])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.35 * longest)
    axes.set_xlabel("milliseconds of a step")
    axes.grid(axis="x")

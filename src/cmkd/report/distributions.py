"""Histograms of what is measured per sample, in a method's first and last epoch."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from cmkd.report.figures import Panel, canvas
from cmkd.report.palette import css_color
from cmkd.report.records import Records


def distribution(title: str, label: str, records: Records, key: str, *, absent: str) -> Panel:
    """Draw a histogram over [0, 1] of one method, in its first and in its last epoch.

    Args:
        title: Title of the panel.
        label: The method.
        records: Method -> its runs; histograms are added up over the runs of a method.
        key: Which of the histograms.
        absent: What to say if no sample was counted.

    Returns:
        The panel; its words give the mean, as the run took it, and the standard deviation, from the middles
        of the bins.
    """
    counts: dict[int, list[int]] = {}
    means: dict[int, list[float]] = {}
    for run in records[label]:
        for row in run.epochs:
            if found := row.get("histograms", {}).get(key):
                before = counts.get(row["epoch"], [0] * len(found))
                counts[row["epoch"]] = [old + new for old, new in zip(before, found, strict=True)]
                means.setdefault(row["epoch"], []).append(row["train"][key])
    counts = {epoch: histogram for epoch, histogram in counts.items() if sum(histogram)}
    if not counts:
        return Panel(title, None, absent)

    import plotly.graph_objects as go

    first, last = min(counts), max(counts)
    index = list(records).index(label)
    bins = len(counts[last])
    figure = canvas(ticks="~%", epochs=None)
    figure.add_bar(
        x=[(position + 0.5) / bins for position in range(bins)],
        y=_shares(counts[last]),
        width=0.92 / bins,
        name=f"epoch {last}",
        marker={"color": css_color(index), "opacity": 0.6},
        hovertemplate="%{y:.1%}",
    )
    if first != last:
        shares = _shares(counts[first])
        outline = go.Scatter(
            x=[position / bins for position in range(bins + 1)],
            y=[*shares, shares[-1]],
            name=f"epoch {first}",
            mode="lines",
            line={"color": "var(--ink)", "width": 1.5, "shape": "hv", "dash": "dot"},
            hovertemplate="%{y:.1%}",
        )
        figure.add_trace(outline)
    figure.update_xaxes(range=[0, 1], title_text=key, tickformat=".1f", dtick=0.2)
    figure.update_yaxes(rangemode="tozero")
    figure.update_layout(showlegend=True, bargap=0)
    ranked = max(counts[last]) - min(counts[last]) < 0.1 * sum(counts[last]) / bins
    words = [
        f"Epoch {epoch}: mean {statistics.fmean(means[epoch]):.3f}, "
        f"standard deviation {_spread(counts[epoch]):.3f}"
        for epoch in dict.fromkeys((first, last))
    ]
    even = (
        " Even by construction: ranks of the difficulty within the batch."
        if key == "weight" and ranked
        else ""
    )
    return Panel(title, figure, f"{'; '.join(words)}.{even}", told=True)


def _shares(histogram: Sequence[int]) -> list[float]:
    return [count / sum(histogram) for count in histogram]


def _spread(histogram: Sequence[int]) -> float:
    shares = _shares(histogram)
    middles = [(position + 0.5) / len(shares) for position in range(len(shares))]
    mean = sum(share * middle for share, middle in zip(shares, middles, strict=True))
    variance = sum(share * (middle - mean) ** 2 for share, middle in zip(shares, middles, strict=True))
    return variance**0.5

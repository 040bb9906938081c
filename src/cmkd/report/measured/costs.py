"""Accuracy against what a network costs."""

from __future__ import annotations

import statistics

from cmkd.report.figures import Panel, canvas
from cmkd.report.measured.sources import Sources, look, plain, teacher_look
from cmkd.report.records import measured
from cmkd.report.sections import Section
from cmkd.report.table import teacher_names, teachers

TITLE = "Accuracy against cost"


def sections(sources: Sources) -> list[Section]:
    """Return the figure."""
    caption = (
        "Test accuracy of the last epoch, mean over the runs of a method, beside the latency of a single "
        "image in float32 on the CPU of the machine that trained it (median), and beside the number of "
        "parameters."
    )
    panels = [
        _panel(sources, "Latency", "CPU latency (ms)", "latency_ms", ".2f", "~g"),
        _panel(sources, "Size", "parameters", "parameters", ",.0f", "~s"),
    ]
    return [Section(TITLE, caption, panels, key=any(panel.figure for panel in panels))]


def _panel(sources: Sources, title: str, axis: str, key: str, form: str, ticks: str) -> Panel:
    points = []
    names = teacher_names(sources.records)
    for sha256, record in teachers(sources.records).items():
        cost = (record.teacher or {}).get(key)
        cost = record.measured("teacher", key) if cost is None else float(cost)
        accuracy = record.measured("teacher", "accuracy")
        if cost is not None and accuracy is not None:
            points.append((f"Teacher ({names[sha256]})", cost, accuracy, teacher_look(size=13)))
    for index, (label, runs) in enumerate(sources.records.items()):
        costs, accuracies = measured(runs, key), measured(runs, "test", "accuracy")
        if costs and accuracies:
            mean = statistics.fmean(accuracies)
            points.append((label, statistics.median(costs), mean, look(index, size=11)))
    if not points:
        return Panel(title, None, "No run has finished with both a test accuracy and its cost.")
    figure = canvas(ticks="~%", epochs=None)
    for name, cost, accuracy, style in points:
        figure.add_scatter(
            x=[cost],
            y=[round(accuracy, 6)],
            name=plain(name),
            mode="markers",
            marker=style["marker"],
            hovertemplate=f"%{{x:{form}}}: %{{y:.2%}}",
        )
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(title_text=axis, rangemode="tozero", showgrid=True, nticks=5, tickformat=ticks)
    words = "; ".join(f"{name} {accuracy:.2%} at {format(cost, form)}" for name, cost, accuracy, _ in points)
    return Panel(title, figure, f"{axis}: {words}.")

"""The figures of a grid's report."""

from __future__ import annotations

import html
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cmkd.bench.reporting.comparing import Outcome, Pair
from cmkd.bench.reporting.wording import interval, percent
from cmkd.report.figures import Panel, Quantity, canvas, over_epochs
from cmkd.report.palette import PLOTLY_MARKERS, css_color
from cmkd.report.records import Records
from cmkd.report.sections import NO_VALIDATION, Section
from cmkd.report.statistics import Sample

if TYPE_CHECKING:
    import plotly.graph_objects as go

NOTHING = "No cell of this pair has finished."
#: Characters of a method's name that an axis has room for.
ROOM = 28


def drawings(pairs: Sequence[Pair], methods: Sequence[str]) -> list[Section]:
    """Return the figures of a grid.

    Args:
        pairs: Its pairs.
        methods: Its methods, in the order that gives them their colours and markers.
    """
    drawn = [
        Section(
            "Test accuracy",
            "Of the last epoch, in percent: every seed as a dot, their mean as a bar.",
            [_accuracies(pair, methods) for pair in pairs],
            key=False,
        )
    ]
    baseline = next((pair.baseline for pair in pairs if pair.baseline is not None), None)
    if baseline is not None:
        drawn.append(
            Section(
                f"Difference to {baseline}",
                "In percentage points of test accuracy, last epoch, seed by seed (faint); their mean with "
                "its 95 % confidence interval, missing for a single seed. An interval that holds 0 leaves "
                "open which of the two is better.",
                [_differences(pair, methods) for pair in pairs],
                key=False,
            )
        )
    drawn.append(
        Section(
            "Accuracy over the epochs",
            "On the validation part, which no student was trained on; without one, as the title says, on the "
            "test set. Lines are means over the seeds, bands reach from the lowest to the highest.",
            [_curves(pair, methods) for pair in pairs],
        )
    )
    strengths = _strengths(pairs, methods)
    if strengths:
        drawn.append(
            Section(
                "Strength of the teacher",
                "Test accuracy of the student over that of its teacher, last epoch: mean over the seeds, and "
                "standard deviation.",
                strengths,
            )
        )
    return drawn


def _accuracies(pair: Pair, methods: Sequence[str]) -> Panel:
    found = [outcome for outcome in pair.outcomes if outcome.accuracy.values]
    if not found:
        return Panel(pair.name, None, NOTHING)
    figure = canvas(ticks=None, epochs=None)
    for outcome in found:
        _dots(figure, outcome, outcome.accuracy, methods, "%{x:.2f}")
        mean = 100 * statistics.fmean(outcome.accuracy.values.values())
        figure.add_scatter(
            x=[mean],
            y=[html.escape(outcome.method)],
            mode="markers",
            marker={"symbol": "line-ns-open", "size": 18, "color": "var(--ink)", "line": {"width": 2}},
            hovertemplate="mean %{x:.2f}",
            name=html.escape(outcome.method),
        )
    words = "; ".join(f"{outcome.method} {percent(outcome.accuracy)}" for outcome in found)
    return _by_method(figure, pair.name, f"{words}.", found, "test accuracy (%)")


def _differences(pair: Pair, methods: Sequence[str]) -> Panel:
    found = [outcome for outcome in pair.outcomes if outcome.difference and outcome.difference.values]
    if not found:
        return Panel(pair.name, None, "No method has a finished seed in common with the one to compare with.")
    figure = canvas(ticks=None, epochs=None)
    figure.add_vline(x=0, line={"color": "var(--ink-soft)", "width": 1.5, "dash": "dot"})
    for outcome in found:
        difference = outcome.difference or Sample({})
        _dots(figure, outcome, difference, methods, "%{x:+.2f}")
        mean = 100 * statistics.fmean(difference.values.values())
        half = difference.half_width
        error = None if half is None else {"type": "data", "array": [100 * half], "thickness": 2, "width": 5}
        figure.add_scatter(
            x=[mean],
            y=[html.escape(outcome.method)],
            mode="markers",
            marker={"symbol": "line-ns-open", "size": 14, "color": "var(--ink)", "line": {"width": 2}},
            error_x=error,
            hovertemplate="mean %{x:+.2f}",
            name=html.escape(outcome.method),
        )
    words = "; ".join(f"{outcome.method} {interval(outcome.difference)}" for outcome in found)
    axis = html.escape(f"difference to {pair.baseline} (points)")
    return _by_method(figure, pair.name, f"{words}.", found, axis)


def _dots(figure: go.Figure, outcome: Outcome, sample: Sample, methods: Sequence[str], hover: str) -> None:
    """Draw every seed of a method as a dot."""
    index = methods.index(outcome.method)
    figure.add_scatter(
        x=[100 * value for value in sample.values.values()],
        y=[html.escape(outcome.method)] * len(sample.values),
        mode="markers",
        marker={
            "symbol": PLOTLY_MARKERS[index % len(PLOTLY_MARKERS)],
            "size": 9,
            "color": css_color(index),
            "opacity": 0.6,
        },
        text=[f"seed {seed}" for seed in sample.values],
        hovertemplate=f"%{{text}}: {hover}",
        name=html.escape(outcome.method),
    )


def _by_method(figure: go.Figure, title: str, words: str, found: Sequence[Outcome], axis: str) -> Panel:
    """Finish a drawing with a row per method, the first on top.

    A row belongs to the whole name: two that are shortened to the same text keep a row each.
    """
    names = [html.escape(outcome.method) for outcome in found]
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(title_text=axis, showgrid=True, nticks=6)
    short = [_short(outcome.method) for outcome in found]
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=names[::-1])
    figure.update_yaxes(tickmode="array", tickvals=names, ticktext=short, tickfont_color="var(--ink)")
    figure.update_yaxes(range=[-0.6, len(names) - 0.4])
    return Panel(title, figure, words, height=4.5 + 1.75 * len(names))


def _curves(pair: Pair, methods: Sequence[str]) -> Panel:
    records: Records = {method: [] for method in methods} | {
        outcome.method: outcome.finished for outcome in pair.outcomes
    }
    absent = NO_VALIDATION if any(records.values()) else NOTHING
    part, title = "validation", pair.name
    if not any(run.series(part, "accuracy") for runs in records.values() for run in runs) and any(
        run.series("test", "accuracy") for runs in records.values() for run in runs
    ):
        part, title = "test", f"{pair.name}, test set"
    return over_epochs(title, records, [Quantity((part, "accuracy"), ".2%")], absent=absent)


def _strengths(pairs: Sequence[Pair], methods: Sequence[str]) -> list[Panel]:
    """Return a panel for every student with several teachers of known accuracy."""
    students: dict[str, list[Pair]] = {}
    for pair in pairs:
        if pair.teacher_accuracy is not None:
            students.setdefault(pair.student, []).append(pair)
    return [
        _strength(student, sorted(taught, key=lambda pair: pair.teacher_accuracy or 0.0), methods)
        for student, taught in students.items()
        if len(taught) > 1
    ]


def _strength(student: str, pairs: Sequence[Pair], methods: Sequence[str]) -> Panel:
    figure = canvas(ticks=None, epochs=None)
    told = []
    for index, method in enumerate(methods):
        points = [
            (100 * (pair.teacher_accuracy or 0.0), pair.teacher, outcome.accuracy)
            for pair in pairs
            for outcome in pair.outcomes
            if outcome.method == method and outcome.accuracy.values
        ]
        if not points:
            continue
        told.append(
            f"{method}: " + ", ".join(f"{percent(sample)} under {name}" for _, name, sample in points)
        )
        figure.add_scatter(
            x=[strength for strength, _, _ in points],
            y=[100 * (sample.mean or 0.0) for _, _, sample in points],
            error_y={
                "type": "data",
                "array": [100 * (sample.spread or 0.0) for _, _, sample in points],
                "thickness": 1.25,
                "width": 3,
            },
            mode="lines+markers",
            line={"color": css_color(index), "width": 2.25},
            marker={
                "symbol": PLOTLY_MARKERS[index % len(PLOTLY_MARKERS)],
                "size": 8,
                "color": css_color(index),
            },
            text=[html.escape(name) for _, name, _ in points],
            hovertemplate="%{text}: %{y:.2f}",
            name=html.escape(method),
        )
    if not told:
        return Panel(student, None, "No cell of this student has finished.")
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(title_text="test accuracy of the teacher (%)")
    figure.update_yaxes(title_text="of the student (%)")
    return Panel(student, figure, f"{'; '.join(told)}.", wide=True)


def _short(method: str) -> str:
    """Return a method's name as an axis has room for it; plotly reads it as markup.

    Long names lose their middle, as variants of a method often differ at the end.
    """
    half = (ROOM - 1) // 2
    return html.escape(method if len(method) <= ROOM else f"{method[: ROOM - 1 - half]}…{method[-half:]}")

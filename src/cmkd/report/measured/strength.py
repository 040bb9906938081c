"""Accuracy of students over that of their teachers, clean and elastically transformed (figure 1)."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmkd.report.figures import Panel, canvas
from cmkd.report.grouping import labels, method_options
from cmkd.report.measured.sources import Sources, look, plain
from cmkd.report.records import Record, Records
from cmkd.report.sections import Section
from cmkd.report.table import teacher_names

TITLE = "Strength of the teacher"


@dataclass
class Point:
    """The runs of one method under one teacher.

    Args:
        teacher: Its name.
        strength: Its test accuracy.
        values: The students' accuracies.
    """

    teacher: str
    strength: float
    values: list[float] = field(default_factory=list)


def points(records: Records, accuracy: Callable[[Record], float | None]) -> dict[str, list[Point]]:
    """Collect what students reached under teachers of known accuracy.

    Args:
        records: Label -> runs.
        accuracy: What is to be shown of a run; None if it was not measured.

    Returns:
        Method, whatever the teacher and the seed -> its points, the weakest teacher first.
    """
    methods, teachers = _methods(records), teacher_names(records)
    found: dict[str, dict[str, Point]] = {}
    for runs in records.values():
        for run in runs:
            strength, value = run.measured("teacher", "accuracy"), accuracy(run)
            if run.teacher is None or strength is None or value is None:
                continue
            sha256 = run.teacher["sha256"]
            of_teacher = found.setdefault(methods[run.path], {}).setdefault(
                sha256, Point(teachers[sha256], strength)
            )
            of_teacher.values.append(value)
    return {name: sorted(each.values(), key=lambda point: point.strength) for name, each in found.items()}


def sections(sources: Sources) -> list[Section]:
    """Return the figure."""
    elastic: dict[str, float] = {}
    severity = 0
    for source in sources.found:
        if "elastic" in source.details.meta:
            severity = source.details.meta["elastic"]["severity"]
            elastic[str(source.run.path)] = source.details.meta["elastic"]["accuracy"]["student"]
    clean = points(sources.records, lambda run: run.measured("test", "accuracy"))
    bent = points(sources.records, lambda run: elastic.get(str(run.path)))
    if max(map(len, clean.values()), default=0) < 2:
        absent = "It takes runs of one method under at least two teachers, with the test accuracies of these."
        return [Section(TITLE, "", [Panel("Clean images", None, absent)], key=False)]
    caption = (
        "Test accuracy of the student, mean over the runs, over that of its teacher on the clean images."
    )
    if bent:
        caption += (
            f" Elastically transformed: severity {severity}, on the test images that the run was measured in "
            "detail on."
        )
    panels = [_panel("Clean images", clean), _panel("Elastically transformed", bent)]
    return [Section(TITLE, caption, panels, key=False)]


def _panel(title: str, found: dict[str, list[Point]]) -> Panel:
    if not found:
        return Panel(title, None, "Not measured for any of the runs.")
    figure = canvas(ticks="~%", epochs=None)
    words = []
    for index, (method, each) in enumerate(found.items()):
        figure.add_scatter(
            x=[round(point.strength, 6) for point in each],
            y=[round(statistics.fmean(point.values), 6) for point in each],
            text=[plain(point.teacher) for point in each],
            name=plain(method),
            mode="lines+markers",
            hovertemplate="%{text}: %{y:.2%}",
            **look(index),
        )
        told = ", ".join(f"{statistics.fmean(point.values):.2%} under {point.teacher}" for point in each)
        words.append(f"{method}: {told}")
    figure.update_layout(hovermode="closest", showlegend=True)
    figure.update_xaxes(title_text="test accuracy of the teacher", tickformat="~%", nticks=6)
    figure.update_yaxes(title_text="of the student")
    return Panel(title, figure, f"{'; '.join(words)}.")


def _methods(records: Records) -> dict[Path, str]:
    """Return what the runs under a teacher are runs of, by their folders; only such runs share a mean."""
    options = {
        run.path: _options(run) for runs in records.values() for run in runs if run.teacher is not None
    }
    distinct: list[dict[str, Any]] = []
    for own in options.values():
        if own not in distinct:
            distinct.append(own)
    names = labels(distinct)
    return {path: names[distinct.index(own)] for path, own in options.items()}


def _options(run: Record) -> dict[str, Any]:
    return {
        key: value for key, value in method_options(run.config).items() if key.partition("_")[0] != "teacher"
    }

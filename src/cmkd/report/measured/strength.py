"""Accuracy of students over that of their teachers, clean and elastically transformed (figure 1)."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from cmkd.report.figures import Panel, canvas
from cmkd.report.grouping import labels, method_options
from cmkd.report.measured.sources import Sources, look, plain
from cmkd.report.records import Record, Records, read_evaluation
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
    elastic, images = _elastic(sources)
    clean = points(sources.records, lambda run: run.measured("test", "accuracy"))
    bent = points(sources.records, lambda run: elastic.get(run.path))
    if max(map(len, clean.values()), default=0) < 2:
        absent = "It takes runs of one method under at least two teachers, with the test accuracies of these."
        return [Section(TITLE, "", [Panel("Clean images", None, absent)], key=False)]
    caption = (
        "Test accuracy of the student over that of its teacher on the clean images; every run is a dot, a "
        "line joins their means."
    )
    if bent:
        caption += f" Elastically transformed: {images}."
    panels = [_panel("Clean images", clean), _panel("Elastically transformed", bent)]
    return [Section(TITLE, caption, panels, key=False)]


def _elastic(sources: Sources) -> tuple[dict[Path, float], str]:
    """Return by run folder the students' accuracies on transformed images, and what they were measured on.

    What `cmkd evaluate` measured comes first: it may have done so for all seeds, and on all images.
    """
    from cmkd.training.details import ELASTIC, ELASTIC_SEVERITY

    evaluated: dict[Path, tuple[int, float]] = {}
    for run in chain.from_iterable(sources.records.values()):
        found = (read_evaluation(run) or {}).get("robustness", {})
        of_corruption = found.get("corruptions", {}).get(ELASTIC)
        if of_corruption is not None and ELASTIC_SEVERITY in found["severities"]:
            place = found["severities"].index(ELASTIC_SEVERITY)
            evaluated[run.path] = found["images"], of_corruption["accuracy"]["student"][place]
    if evaluated:
        images = max(count for count, _ in evaluated.values())  # runs measured on fewer do not compare
        of_most = {path: accuracy for path, (count, accuracy) in evaluated.items() if count == images}
        runs = f"runs that cmkd evaluate measured on {images:,} test images"
        return of_most, f"severity {ELASTIC_SEVERITY}, mean over the {runs}"
    detailed = {
        source.run.path: source.details.meta["elastic"]["accuracy"]["student"]
        for source in sources.found
        if "elastic" in source.details.meta
    }
    return (
        detailed,
        f"severity {ELASTIC_SEVERITY}, of one run each, on the test images it was looked at in detail on",
    )


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
            legendgroup=plain(method),
            mode="lines+markers",
            hovertemplate="%{text}: %{y:.2%}",
            **look(index),
        )
        values = [(point, value) for point in each for value in point.values]
        if len(values) > len(each):
            dots = look(index, size=5)["marker"] | {"opacity": 0.45}
            figure.add_scatter(
                x=[round(point.strength, 6) for point, _ in values],
                y=[round(value, 6) for _, value in values],
                text=[plain(point.teacher) for point, _ in values],
                name=plain(method),
                mode="markers",
                marker=dots,
                legendgroup=plain(method),
                showlegend=False,
                hovertemplate="%{text}, one run: %{y:.2%}",
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

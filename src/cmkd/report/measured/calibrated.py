"""Reliability diagram: whether networks are as often right as they are sure."""

from __future__ import annotations

from typing import Any

from cmkd.report.figures import Panel, canvas
from cmkd.report.measured.sources import Source, Sources, look, plain, teacher_look
from cmkd.report.sections import Section
from cmkd.report.table import teacher_names

TITLE = "Calibration"


def sections(sources: Sources) -> list[Section]:
    """Return the figure."""
    if not sources.found:
        return [Section(TITLE, "", [Panel("Reliability", None, sources.nothing())], key=False)]
    figure = canvas(ticks="~%", epochs=None)
    figure.add_scatter(
        x=[0, 1],
        y=[0, 1],
        mode="lines",
        line={"color": "var(--rule)", "width": 1.5},
        hoverinfo="skip",
        showlegend=False,
    )
    words, images, drawn = [], set(), set()
    names = teacher_names(sources.records)
    whole = all(source.evaluation for source in sources.found)
    for source in sources.found:
        found, count = calibrations(source, whole=whole)
        images.add(f"{count:,}")
        rows = [("student", source.label, look(source.index))]
        # Not from the details: `cmkd evaluate` may have had a teacher that was gone when they were taken.
        sha256 = (source.run.teacher or {}).get("sha256")
        if "teacher" in found and sha256 in names and sha256 not in drawn:
            drawn.add(sha256)
            rows.insert(0, ("teacher", f"Teacher ({names[sha256]})", teacher_look()))
        for network, name, style in rows:
            reliability = found[network]["reliability"]
            met = [place for place, number in enumerate(reliability["count"]) if number]
            figure.add_scatter(
                x=[round(reliability["confidence"][place], 4) for place in met],
                y=[round(reliability["accuracy"][place], 4) for place in met],
                text=[f"{reliability['count'][place]:,} images" for place in met],
                name=plain(name),
                mode="lines+markers",
                hovertemplate="confidence %{x:.1%}, right %{y:.1%}, %{text}",
                **style,
            )
            words.append(f"{name} {found[network]['ece']:.3f}")
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(title_text="confidence", range=[0, 1], tickformat="~%", showgrid=True)
    figure.update_yaxes(title_text="share that is right", range=[0, 1])
    caption = (
        "Test images in 15 bins by the probability of the answer; a point is the mean of a bin. On the "
        "diagonal a network is as sure as it is often right; below, it is too sure. "
        f"{' or '.join(sorted(images))} test images.{sources.left_out()}"
    )
    said = f"Expected calibration error: {'; '.join(words)}."
    return [Section(TITLE, caption, [Panel("Reliability", figure, said, told=True, wide=True)])]


def calibrations(source: Source, *, whole: bool) -> tuple[dict[str, Any], int]:
    """Return the calibration by network, and of how many images.

    Args:
        source: The run.
        whole: Take what `cmkd evaluate` found on the whole test set, and not the images of the details.
    """
    from cmkd.evaluation.calibration import calibration

    evaluation = source.evaluation
    if whole and evaluation is not None:
        return evaluation["calibration"], evaluation["setting"]["images"]
    details = source.details
    found = {"student": calibration(details.student, details.targets)}
    if (teacher := details.teacher) is not None:
        found["teacher"] = calibration(teacher, details.targets)
    return found, len(details.targets)

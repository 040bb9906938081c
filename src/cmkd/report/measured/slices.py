"""Decisions on the plane through three test images: teacher and students side by side."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from cmkd.report.figures import Panel, canvas
from cmkd.report.measured.sources import FEW, Source, Sources, one_teacher, plain
from cmkd.report.palette import css_color
from cmkd.report.pictures import Picture
from cmkd.report.sections import Section

if TYPE_CHECKING:
    import numpy as np

TITLE = "Decision boundaries on a plane"
#: Classes with a colour of their own; the rest share one.
COLORED = 6


def sections(sources: Sources) -> list[Section]:
    """Return the figure."""
    drawn = [each for each in one_teacher(sources.taught) if "slice" in each.details.meta][:FEW]
    if not drawn:
        reasons = {each.details.meta["missing"].get("slice", "") for each in sources.found} - {""}
        absent = f"Not measured: {'; '.join(sorted(reasons))}." if reasons else sources.nothing()
        return [Section(TITLE, "", [Panel("Slice", None, absent)], key=False)]
    first = drawn[0]
    teacher = first.details.array("slice_teacher")
    slices = [source.details.array("slice_student") for source in drawn]
    counts = Counter(each for answers in (teacher, *slices) for each in answers.ravel().tolist())
    corners = [int(first.details.targets[position]) for position in first.details.meta["slice"]["positions"]]
    ordered = [*corners, *(each for each, _ in counts.most_common() if each not in corners)]
    colored = [each for each in ordered if each in counts][:COLORED]
    panels = [_images(first)]
    panels.append(_panel(first.teacher_name, first, teacher, colored, None))
    panels += [
        _panel(source.label, source, answers, colored, teacher)
        for source, answers in zip(drawn, slices, strict=True)
    ]
    caption = (
        "The class that a network gives to every point of the plane through three test images (Somepalli "
        "et al. 2022), among normalised pixels; where no colour is named, it is one of the other classes. "
        "The teacher chooses the three: the image of median margin among those that it gets right, and of "
        "the classes that it holds next likely there the image of which it is surest. Boundary: share of "
        f"neighbouring points that are given different classes. One plane of very many.{sources.left_out()}"
    )
    return [Section(TITLE, caption, panels, key=False)]


def _images(source: Source) -> Panel:
    details = source.details
    shown = tuple(
        Picture(
            details.picture(position),
            f"{place}: {source.classes[int(details.targets[position])]}",
            f"test image {int(details.indices[position])}",
        )
        for place, position in enumerate(details.meta["slice"]["positions"], start=1)
    )
    return Panel("The three images", None, "They span the plane.", pictures=shown, wide=True)


def _panel(
    title: str,
    source: Source,
    answers: np.ndarray[Any, Any],
    colored: list[int],
    teacher: np.ndarray[Any, Any] | None,
) -> Panel:
    import torch

    from cmkd.evaluation.plane import boundary_share

    found = source.details.meta["slice"]
    side = len(answers)
    places = {each: place for place, each in enumerate(colored)}
    names = {each: plain(source.classes[each]) for each in set(answers.ravel().tolist())}
    colors = [*(css_color(place) for place in range(len(colored))), "var(--rule)"]
    steps = len(colors)
    scale = [[edge / steps, color] for place, color in enumerate(colors) for edge in (place, place + 1)]
    axes = [
        [round(low + (high - low) * at / (side - 1), 2) for at in range(side)]
        for low, high in (found["x"], found["y"])
    ]
    figure = canvas(ticks=None, epochs=None)
    figure.add_heatmap(
        x=axes[0],
        y=axes[1],
        z=[[places.get(each, steps - 1) for each in row] for row in answers.tolist()],
        text=[[names[each] for each in row] for row in answers.tolist()],
        zmin=-0.5,
        zmax=steps - 0.5,
        colorscale=scale,
        opacity=0.85,
        showscale=True,
        colorbar={
            "orientation": "h",
            "y": 1.0,
            "yanchor": "bottom",
            "thickness": 8,
            "outlinewidth": 0,
            "tickvals": list(range(steps)),
            "ticktext": [*(plain(source.classes[each][:11]) for each in colored), "other"],
            "tickfont": {"size": 10},
        },
        hovertemplate="%{text}<extra></extra>",
    )
    figure.add_scatter(
        x=[round(x, 2) for x, _ in found["corners"]],
        y=[round(y, 2) for _, y in found["corners"]],
        text=["1", "2", "3"],
        mode="markers+text",
        textposition="top center",
        textfont={"color": "var(--ink)", "size": 14},
        marker={"symbol": "circle", "size": 8, "color": "var(--ink)"},
        hoverinfo="skip",
        showlegend=False,
    )
    bare: dict[str, Any] = {"showticklabels": False, "showgrid": False, "ticks": "", "title_text": ""}
    figure.update_xaxes(**bare)
    figure.update_yaxes(**bare)
    figure.update_layout(hovermode="closest")
    said = f"Boundary {boundary_share(torch.from_numpy(answers)):.1%}"
    if teacher is not None:
        said += f"; the teacher’s class on {float((answers == teacher).mean()):.1%} of the plane"
    return Panel(title, figure, f"{said}.", told=True, height=22)

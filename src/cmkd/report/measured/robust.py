"""Accuracy under corruptions, from what `cmkd evaluate --corruptions` stored."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from cmkd.report.figures import Panel, canvas
from cmkd.report.measured.sources import Sources, look, plain, teacher_look
from cmkd.report.records import read_evaluation
from cmkd.report.sections import Section

TITLE = "Accuracy on corrupted images"


def sections(sources: Sources) -> list[Section]:
    """Return the figure."""
    measured: list[tuple[int, str, dict[str, Any]]] = []
    for index, (label, runs) in enumerate(sources.records.items()):
        found = next((each for run in runs if "robustness" in (each := read_evaluation(run) or {})), None)
        if found is not None:
            measured.append((index, label, found["robustness"]))
    if not measured:
        absent = "Not measured: cmkd evaluate RUN --corruptions true --corruption_images 1000 does it."
        return [Section(TITLE, "", [Panel("By corruption", None, absent)], key=False)]
    names = list(dict.fromkeys(name for _, _, found in measured for name in found["corruptions"]))
    figure = canvas(ticks=None, epochs=None)
    words = []
    first = measured[0][2]
    rows = [(label, "student", found, look(index, size=9)) for index, label, found in measured]
    if "teacher" in first["clean"]:
        rows.insert(0, ("Teacher", "teacher", first, teacher_look(size=9)))
    for label, network, found, style in rows:
        points = {"no corruption": found["clean"][network]["value"]}
        points |= {
            name: fmean(found["corruptions"][name]["accuracy"][network])
            for name in names
            if name in found["corruptions"]
        }
        figure.add_scatter(
            x=[round(100 * value, 3) for value in points.values()],
            y=[plain(name.replace("_", " ")) for name in points],
            name=plain(label),
            mode="markers",
            marker=style["marker"],
            hovertemplate="%{x:.1f} %",
        )
        mean = found["summary"][network]["mean_accuracy"]
        words.append(f"{label} {mean:.1%} ({points['no corruption']:.1%} without corruption)")
    shown = ["no corruption", *(name.replace("_", " ") for name in names)]
    figure.update_layout(hovermode="y unified")
    figure.update_xaxes(title_text="accuracy (%)", showgrid=True, nticks=6)
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=shown[::-1], nticks=len(shown))
    figure.update_yaxes(range=[-0.6, len(shown) - 0.4], tickmode="array", tickvals=shown)
    images = sorted({f"{found['images']:,}" for _, _, found in measured})
    severities = sorted({", ".join(map(str, found["severities"])) for _, _, found in measured})
    strengths = sorted({str(found["strengths"]) for _, _, found in measured})
    missing = [label for label in sources.records if label not in {each for _, each, _ in measured}]
    absent = f" Not measured: {', '.join(missing)}." if missing else ""
    same = "the same for all" if len(images) == 1 else "so that they cannot be compared closely"
    caption = (
        f"Mean over the severities {' or '.join(severities)} with the strengths of {' or '.join(strengths)}; "
        f"{' or '.join(images)} test images, {same}.{absent}"
    )
    said = f"Mean over the corruptions: {'; '.join(words)}."
    panel = Panel("By corruption", figure, said, wide=True, told=True, height=5.5 + 1.5 * len(shown))
    return [Section(TITLE, caption, [panel])]

"""Which figures the page has, what they are called, and how to read them."""

from __future__ import annotations

from dataclasses import dataclass

from cmkd.report.distributions import distribution
from cmkd.report.figures import Panel, Quantity, over_epochs
from cmkd.report.records import Records, pooled
from cmkd.report.table import teacher_names, teachers

#: Methods whose weights are drawn.
MOST_ADAPTIVE = 6

NO_EPOCH = "No epoch has finished yet."
NO_TEACHER = "No run had a teacher to be compared with."
NO_VALIDATION = "No run held out a validation part."


@dataclass(frozen=True)
class Section:
    """A figure of one or more panels.

    Args:
        title: Its title.
        caption: How to read it.
        panels: Its panels.
        key: Whether its lines are told apart by method, so that readers need the key to them.
    """

    title: str
    caption: str
    panels: list[Panel]
    key: bool = True


def sections(records: Records) -> list[Section]:
    """Return the page's figures, in order.

    Args:
        records: Method -> its runs.

    Returns:
        The figures; a panel for which nothing was measured says so.
    """
    several = any(len(runs) > 1 for runs in records.values())
    lines = "Lines are means over the runs of a method, bands reach from the lowest to the highest."
    band = f" {lines}" if several else ""
    return [
        _training(records, band),
        _fidelity(records, band),
        _losses(records, band),
        _weights(records),
        _pace(records),
    ]


def _training(records: Records, band: str) -> Section:
    references = {}
    names = teacher_names(records)
    for sha256, record in teachers(records).items():
        if (accuracy := (record.teacher or {}).get("accuracy")) is not None:
            references[f"Teacher ({names[sha256]})"] = accuracy
    validated = any(pooled(runs, "validation", "accuracy") for runs in records.values())
    training = "on the augmented training images, as they were seen."
    panel = over_epochs(
        "Accuracy",
        records,
        [
            Quantity(("validation", "accuracy"), ".2%"),
            Quantity(("train", "accuracy"), ".2%", "training", dash="dash", faint=validated),
        ],
        references=references,
        absent=NO_EPOCH,
        wide=True,
    )
    if validated:
        known = ", ".join(f"{name} {accuracy:.2%}" for name, accuracy in references.items())
        dotted = f" Dotted, on the validation part: {known}." if known else ""
        solid = "Solid: on the validation part, which no student was trained on."
        caption = f"{solid} Thin, dashed: {training}{dotted}"
    else:
        caption = f"{NO_VALIDATION} Dashed: {training}"
    return Section("Training", caption + band, [panel])


def _fidelity(records: Records, band: str) -> Section:
    taught = bool(teachers(records))
    absent = NO_VALIDATION if taught else NO_TEACHER
    panels = [
        over_epochs("Rank correlation (Spearman’s ρ)", records, [_fidelity_quantity("rank")], absent=absent),
        over_epochs("Value correlation (Pearson’s r)", records, [_fidelity_quantity("value")], absent=absent),
    ]
    untaught = [label for label, runs in records.items() if all(run.teacher is None for run in runs)]
    without = (
        f" Without a teacher, and so without a line: {', '.join(untaught)}." if taught and untaught else ""
    )
    caption = (
        "Correlation between the logits that student and teacher give to the classes of an image, "
        "mean over the validation images." + without
    )
    return Section("Likeness to the teacher", caption + band, panels)


def _fidelity_quantity(kind: str) -> Quantity:
    return Quantity(("validation", f"{kind}_correlation"), ".3f")


def _losses(records: Records, band: str) -> Section:
    terms = [
        Quantity(("train", "pearson"), ".3f", "Pearson"),
        Quantity(("train", "spearman"), ".3f", "Spearman", dash="dash"),
    ]
    intra = any(any(run.series("train", "intra").values()) for runs in records.values() for run in runs)
    if intra:
        terms.append(Quantity(("train", "intra"), ".3f", "intra-class", dash="dot"))
    panels = [
        over_epochs(
            "Cross-entropy (nats)",
            records,
            [Quantity(("train", "task"), ".3f")],
            absent="No run reported its cross-entropy.",
        ),
        over_epochs(
            "Distillation loss, weighted",
            records,
            [Quantity(("train", "distillation"), ".3f")],
            absent=NO_TEACHER,
            log=True,
        ),
        over_epochs(
            "Terms of CMKD, unweighted",
            records,
            terms,
            absent="No run was trained with CMKD, whose terms would be here.",
        ),
    ]
    caption = (
        "Means over the training images of an epoch. The distillation losses of different methods are "
        "different quantities: their course can be compared, their height cannot. CMKD’s terms: 1 − r "
        "(Pearson, solid) and 1 − ρ with a soft rank (Spearman, dashed)"
        + (", and the intra-class term (dotted)." if intra else ".")
    )
    return Section("Loss", caption + band, panels)


def _weights(records: Records) -> Section:
    adaptive = [
        label
        for label, runs in records.items()
        if any(row.get("histograms", {}).get("weight") for run in runs for row in run.epochs)
    ]
    caption = (
        "How CMKD’s weight w is spread over the training images, and the difficulty it comes from. A weight "
        "of 0 leaves only the Pearson term (values), a weight of 1 only the Spearman term (ranking). Bars: "
        "last epoch; dotted outline: first epoch."
    )
    if not adaptive:
        absent = "No run was trained with CMKD, which alone weights every sample by its difficulty."
        return Section("Difficulty weight", "", [Panel("Weight w", None, absent)], key=False)
    if len(adaptive) > MOST_ADAPTIVE:
        caption += f" The first {MOST_ADAPTIVE} of {len(adaptive)} methods."
    panels = []
    for label in adaptive[:MOST_ADAPTIVE]:
        prefix = f"{label}: " if len(adaptive) > 1 else ""
        for key, name in (("weight", "weight w"), ("difficulty", "difficulty, as measured")):
            title = f"{prefix}{name}" if prefix else name.capitalize()
            panels.append(distribution(title, label, records, key, absent=f"The {key} was not logged."))
    return Section("Difficulty weight", caption, panels, key=False)


def _pace(records: Records) -> Section:
    panels = [
        over_epochs("Learning rate", records, [Quantity(("lr",), ".3g")], absent=NO_EPOCH, merge=True),
        over_epochs("Seconds per epoch", records, [Quantity(("seconds",), ".3g")], absent=NO_EPOCH),
    ]
    caption = "Learning rate of an epoch’s last step; time that its training steps took, without validation."
    return Section("Pace", caption, panels)

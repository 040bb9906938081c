"""The difficulty of test images: against who is right, and the easiest and hardest of them (figure 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cmkd.report.figures import Panel, canvas
from cmkd.report.measured.sources import Source, Sources, look, one_teacher, plain, right, teacher_look
from cmkd.report.palette import css_color
from cmkd.report.pictures import Picture
from cmkd.report.sections import Section

if TYPE_CHECKING:
    from torch import Tensor

TITLE = "Difficulty of the test images"
BINS, GROUPS, SHOWN = 20, 10, 8


def difficulties(source: Source) -> tuple[Tensor, Tensor, str]:
    """Return how hard every image is, its weight among these images, and in words how that was measured.

    It is measured as the run's own CMKD loss did; as CMKD's defaults have it if the run had another loss, or
    one with a constant weight.
    """
    from cmkd.losses.difficulty import difficulty_weight, sample_difficulty

    teacher = source.details.teacher
    assert teacher is not None
    loss = source.loss if source.loss.get("name") == "CMKD" else {}
    measure = loss.get("difficulty", "teacher_entropy")
    own = bool(loss) and measure != "constant"
    if not own:
        loss, measure = {}, "teacher_entropy"
    raw = sample_difficulty(
        source.details.student, teacher, source.details.targets, measure=measure, tau=loss.get("tau", 1.0)
    )
    weight = difficulty_weight(raw, loss.get("difficulty_scale", "batch_rank"))
    if loss.get("hard_samples") == "values":
        weight = 1 - weight
    how = {
        "teacher_entropy": "entropy of the teacher’s answer, from z-scored logits",
        "student_entropy": "entropy of the student’s answer, from z-scored logits",
        "teacher_ce": "the teacher’s cross-entropy on the label",
    }[measure]
    return raw, weight, f"{how}, {'as in the run' if own else 'CMKD’s default'}"


def by_difficulty(hard: Tensor, correct: Tensor, groups: int = GROUPS) -> list[float]:
    """Return the share of correct answers in groups of equal size, from the easiest images to the hardest.

    Example:
        >>> import torch
        >>> by_difficulty(torch.tensor([0.1, 0.9, 0.2, 0.8]), torch.tensor([1, 0, 1, 1]) > 0, groups=2)
        [1.0, 0.5]
    """
    order = hard.argsort(stable=True)
    return [part.double().mean().item() for part in correct[order].tensor_split(groups) if len(part)]


def sections(sources: Sources) -> list[Section]:
    """Return the figure."""
    comparable = one_teacher(sources.taught)
    if not comparable:
        absent = sources.nothing("No teacher was at hand, and without one no difficulty is known")
        return [Section(TITLE, "", [Panel("Difficulty", None, absent)], key=False)]
    chosen = next((each for each in comparable if each.loss.get("name") == "CMKD"), comparable[0])
    hard, weight, how = difficulties(chosen)
    targets = chosen.details.targets
    caption = (
        f"{len(targets):,} test images; difficulty: {how}. Weights are those that the images would have in "
        f"one batch. The groups have equal numbers of images.{sources.left_out()}"
    )
    panels = [_distribution(chosen, hard), _shares(comparable, hard, targets)]
    order = hard.argsort(stable=True).tolist()
    for title, positions in (
        ("Easiest images", order[:SHOWN]),
        ("Hardest images", order[-SHOWN:][::-1]),
    ):
        panels.append(_pictures(title, chosen, positions, hard, weight))
    return [Section(TITLE, caption, panels)]


def _distribution(source: Source, hard: Tensor) -> Panel:
    import torch

    correct = right(source.details.student, source.details.targets)
    low, high = float(hard.min()), float(hard.max())
    high = high if high > low else low + 1e-6
    figure = canvas(ticks="~%", epochs=None)
    width = (high - low) / BINS
    words = []
    for name, chosen, color in (
        ("right", correct, css_color(source.index)),
        ("wrong", ~correct, "var(--ink-soft)"),
    ):
        counts = torch.histc(hard[chosen], BINS, low, high)
        figure.add_bar(
            x=[round(low + (place + 0.5) * width, 5) for place in range(BINS)],
            y=[round(count / len(hard), 5) for count in counts.tolist()],
            width=width,
            name=name,
            marker={"color": color, "opacity": 0.75},
            hovertemplate="%{y:.1%}",
        )
        if bool(chosen.any()):
            words.append(f"{name} {float(hard[chosen].mean()):.3f}")
    figure.update_layout(barmode="stack", showlegend=True, bargap=0)
    figure.update_xaxes(title_text="difficulty", tickformat=".3~g", nticks=6)
    figure.update_yaxes(rangemode="tozero")
    said = f"Mean difficulty where the {source.label} student is {', and where it is '.join(words)}."
    return Panel("Distribution, right and wrong answers", figure, said, told=True)


def _shares(comparable: list[Source], hard: Tensor, targets: Tensor) -> Panel:
    figure = canvas(ticks="~%", epochs=None)
    teacher = comparable[0].details.teacher
    assert teacher is not None
    rows = [(comparable[0].teacher_name, teacher, teacher_look())]
    rows += [(source.label, source.details.student, look(source.index)) for source in comparable]
    words = []
    for name, logits, style in rows:
        shares = by_difficulty(hard, right(logits, targets))
        figure.add_scatter(
            x=list(range(1, len(shares) + 1)),
            y=[round(share, 5) for share in shares],
            name=plain(name),
            mode="lines+markers",
            hovertemplate="%{y:.1%}",
            **style,
        )
        words.append(f"{name} {shares[0]:.1%} to {shares[-1]:.1%}")
    figure.update_xaxes(title_text="from the easiest tenth to the hardest", dtick=1, tickformat="d")
    figure.update_yaxes(rangemode="tozero")
    said = f"From the easiest to the hardest: {'; '.join(words)}."
    return Panel("Accuracy over difficulty", figure, said, told=True)


def _pictures(title: str, source: Source, positions: list[int], hard: Tensor, weight: Tensor) -> Panel:
    details = source.details
    guesses = details.student.argmax(1)
    shown = []
    for position in positions:
        label, guess = (source.classes[int(each[position])] for each in (details.targets, guesses))
        answer = "right" if label == guess else f"says {guess}"
        note = f"{answer}; difficulty {float(hard[position]):.3f}, w {float(weight[position]):.2f}"
        shown.append(Picture(details.picture(position), label, note))
    said = f"With their label, the answer of the {source.label} student, difficulty and weight."
    return Panel(title, None, said, pictures=tuple(shown), wide=True)

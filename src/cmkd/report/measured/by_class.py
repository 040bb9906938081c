"""What students gain and lose against their teacher, by class, and images that they alone get wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cmkd.report.figures import Panel, canvas
from cmkd.report.measured.sources import FEW, Source, Sources, look, one_teacher, plain, right
from cmkd.report.pictures import Picture
from cmkd.report.sections import Section

if TYPE_CHECKING:
    from torch import Tensor

GAINS, MISTAKES = "Gains and losses by class", "Mistakes that the teacher does not make"
#: Classes at either end, and images of a method.
ENDS, SHOWN = 10, 8


def gains(student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
    """Return, class by class, the student's accuracy less the teacher's.

    Args:
        student: Logits `(N, C)`.
        teacher: Logits `(N, C)`.
        targets: Class indices `(N,)`.

    Returns:
        `(C,)` float64, NaN for a class without image.

    Example:
        >>> import torch
        >>> right = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        >>> gains(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), right, torch.tensor([0, 0]))
        tensor([-0.5000,     nan], dtype=torch.float64)
    """
    difference = right(student, targets).double() - right(teacher, targets).double()
    sums = difference.new_zeros(student.shape[1]).index_add_(0, targets, difference)
    return sums / targets.bincount(minlength=student.shape[1])


def lost(student: Tensor, teacher: Tensor, targets: Tensor) -> list[int]:
    """Return the images that the student alone gets wrong, by how sure the teacher is of their label."""
    wrong = (~right(student, targets) & right(teacher, targets)).nonzero().flatten()
    sure = teacher.double().softmax(1)[wrong, targets[wrong]]
    return wrong[sure.argsort(descending=True, stable=True)].tolist()


def sections(sources: Sources) -> list[Section]:
    """Return the two figures."""
    comparable = one_teacher(sources.taught)
    if not comparable:
        absent = sources.nothing("No teacher was at hand")
        return [Section(title, "", [Panel(title, None, absent)], key=False) for title in (GAINS, MISTAKES)]
    first = comparable[0]
    teacher, targets = first.details.teacher, first.details.targets
    assert teacher is not None
    found = {source.label: gains(source.details.student, teacher, targets) for source in comparable}
    sample = f"{len(targets):,} test images.{sources.left_out()}"
    return [
        Section(
            GAINS,
            "Accuracy of the student less that of the teacher, in points, for the classes where the mean "
            f"over the methods is lowest and highest. {sample}",
            [_gains(comparable, found)],
        ),
        Section(
            MISTAKES,
            "Images that the student gets wrong and the teacher right; of those the ones of whose label the "
            f"teacher is surest. {sample}",
            [_mistakes(source, teacher) for source in comparable[:FEW]],
            key=False,
        ),
    ]


def _gains(comparable: list[Source], found: dict[str, Tensor]) -> Panel:
    import torch

    mean = torch.stack(list(found.values())).mean(0)
    order = [each for each in mean.argsort(stable=True).tolist() if not bool(mean[each].isnan())]
    shown = order if len(order) <= 2 * ENDS else order[:ENDS] + order[-ENDS:]
    names = [plain(comparable[0].classes[each]) for each in shown]
    figure = canvas(ticks=None, epochs=None)
    figure.add_vline(x=0, line={"color": "var(--ink-soft)", "width": 1.5, "dash": "dot"})
    words = []
    for source in comparable:
        values = 100 * found[source.label]
        figure.add_scatter(
            x=[round(value, 3) for value in values[shown].tolist()],
            y=names,
            name=plain(source.label),
            mode="markers",
            marker=look(source.index, size=9)["marker"],
            hovertemplate="%{x:+.1f}",
        )
        below, above = int((values < 0).sum()), int((values > 0).sum())
        words.append(f"{source.label} loses in {below} classes and gains in {above}")
    figure.update_layout(hovermode="y unified")
    figure.update_xaxes(title_text="points of accuracy, student less teacher", showgrid=True, nticks=7)
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=names, tickvals=names)
    figure.update_yaxes(tickmode="array", range=[-0.6, len(names) - 0.4])
    said = f"{'; '.join(words)}."
    return Panel("By class", figure, said, wide=True, told=True, height=5.5 + 1.4 * len(names))


def _mistakes(source: Source, teacher: Tensor) -> Panel:
    details = source.details
    positions = lost(details.student, teacher, details.targets)
    title = f"{source.label}: {len(positions):,} of {len(details.targets):,}"
    if not positions:
        return Panel(title, None, "There is no such image.")
    guesses = details.student.argmax(1)
    shown = tuple(
        Picture(
            details.picture(position),
            source.classes[int(details.targets[position])],
            f"says {source.classes[int(guesses[position])]}",
        )
        for position in positions[:SHOWN]
    )
    return Panel(title, None, "With their label, and the student’s answer.", pictures=shown, wide=True)

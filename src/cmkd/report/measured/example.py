"""An image whose classes one student orders otherwise than the teacher, and CMKD's does not (figure 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cmkd.report.figures import Panel, canvas
from cmkd.report.measured.sources import Source, Sources, look, one_teacher, plain, teacher_look
from cmkd.report.pictures import Picture
from cmkd.report.sections import Section

if TYPE_CHECKING:
    from torch import Tensor

TITLE = "An example: the order of the classes"
#: Methods that minimise a Kullback-Leibler divergence, the plainest first.
BY_DIVERGENCE = ("KD", "DKD", "NKD", "MLKD", "CTKD", "TTM", "WTTM")
#: The teacher's highest classes whose order is looked at, and how many of them are drawn.
HIGHEST, DRAWN = 5, 8


@dataclass(frozen=True)
class Example:
    """The image that was chosen, and how often the like happens.

    Args:
        position: The image's position in the sample.
        highest: How many of the teacher's highest classes were compared.
        kept: Images in which the first and the second student keep their order.
        alone: Images in which the first alone, and the second alone, keeps it.
    """

    position: int
    highest: int
    kept: tuple[int, int]
    alone: tuple[int, int]


def keeps_order(student: Tensor, teacher: Tensor, highest: int) -> Tensor:
    """Return whether a student's highest classes are the teacher's, in the teacher's order.

    Args:
        student: Logits `(N, C)`.
        teacher: Logits `(N, C)` for the same images.
        highest: How many classes.

    Returns:
        `(N,)` bool.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[3.0, 2.0, 1.0]])
        >>> keeps_order(torch.tensor([[9.0, 1.0, 0.0], [1.0, 9.0, 0.0]]), teacher.expand(2, 3), 2)
        tensor([ True, False])
    """
    return (student.topk(highest).indices == teacher.topk(highest).indices).all(1)


def choose(divergent: Tensor, faithful: Tensor, teacher: Tensor) -> Example | None:
    """Choose the image that shows most clearly how one student changes the order and another keeps it.

    Among the images in which `faithful` keeps the order of the teacher's highest classes and `divergent`
    does not, it is the one with the largest difference between the two students' rank correlations with the
    teacher. Five classes are compared; if there is no such image, fewer.

    Args:
        divergent: Logits `(N, C)` of the student that changes the order.
        faithful: Logits of the student that keeps it.
        teacher: Logits of the teacher.

    Returns:
        The choice; None if there is no such image.
    """
    from cmkd.functional import spearman

    gap = spearman(faithful.double(), teacher.double()) - spearman(divergent.double(), teacher.double())
    for highest in range(min(HIGHEST, teacher.shape[1]), 1, -1):
        first = keeps_order(faithful, teacher, highest)
        second = keeps_order(divergent, teacher, highest)
        chosen = first & ~second
        if bool(chosen.any()):
            best = int(gap.masked_fill(~chosen, -float("inf")).argmax())
            counts = tuple(int(each.sum()) for each in (first, second, chosen, second & ~first))
            return Example(best, highest, (counts[0], counts[1]), (counts[2], counts[3]))
    return None


def sections(sources: Sources) -> list[Section]:
    """Return the figure."""
    comparable = one_teacher(sources.taught)
    kind = {name: [each for each in comparable if each.loss.get("name") == name] for name in BY_DIVERGENCE}
    divergent = next((each for name in BY_DIVERGENCE for each in kind[name]), None)
    faithful = next((each for each in comparable if each.loss.get("name") == "CMKD"), None)
    if divergent is None or faithful is None:
        needed = "It takes a run with CMKD and one with KD or another divergence, measured, of one teacher"
        return [Section(TITLE, "", [Panel("Example", None, sources.nothing(needed))], key=False)]
    teacher = comparable[0].details.teacher
    assert teacher is not None
    if teacher.shape[1] < 3:
        absent = "With two classes their order is the answer itself: there is no rank beside it to change."
        return [Section(TITLE, "", [Panel("Example", None, absent)], key=False)]
    found = choose(divergent.details.student, faithful.details.student, teacher)
    if found is None:
        absent = (
            f"There is no image in which {faithful.label} keeps the teacher’s order and {divergent.label} "
            "does not."
        )
        return [Section(TITLE, "", [Panel("Example", None, absent)], key=False)]
    images = len(teacher)
    caption = (
        f"Chosen by a rule: of the {images:,} test images those in which the {faithful.label} student gives "
        f"the teacher’s {found.highest} highest classes in the teacher’s order and the {divergent.label} "
        f"student does not ({found.alone[0]:,}; the other way round it is {found.alone[1]:,}); of these the "
        f"one where the rank correlations of the two differ most. In all, {faithful.label} keeps that order "
        f"in {found.kept[0]:,} images, {divergent.label} in {found.kept[1]:,}. One example shows what can "
        "happen, not how often."
    )
    return [
        Section(TITLE, caption, [_logits(found, comparable[0], divergent, faithful), _image(found, faithful)])
    ]


def _logits(found: Example, first: Source, *students: Source) -> Panel:
    from cmkd.functional import pearson, spearman, standardize

    teacher = first.details.teacher
    assert teacher is not None
    said = teacher[found.position].double()
    order = said.argsort(descending=True)[:DRAWN]
    names = [plain(first.classes[each]) for each in order.tolist()]
    figure = canvas(ticks=None, epochs=None)
    rows = [(first.teacher_name, said, teacher_look())]
    rows += [
        (each.label, each.details.student[found.position].double(), look(each.index)) for each in students
    ]
    words = []
    for name, logits, style in rows:
        shown = standardize(logits[None], dim=1)[0, order]
        figure.add_scatter(
            x=names,
            y=[round(value, 3) for value in shown.tolist()],
            name=plain(name),
            mode="lines+markers",
            hovertemplate="%{y:.2f}",
            **style,
        )
        highest = logits.argsort(descending=True)[: found.highest].tolist()
        listed = " > ".join(first.classes[each] for each in highest)
        if logits is said:
            words.append(f"{name}: {listed}.")
        else:
            r, rho = float(pearson(logits, said)), float(spearman(logits, said))
            words.append(f"{name}: {listed} (r = {r:.3f}, ρ = {rho:.3f} over all classes).")
    figure.update_xaxes(type="category", title_text=f"the teacher’s {len(names)} highest classes")
    figure.update_yaxes(title_text="logit, standardised")
    figure.update_layout(showlegend=True)
    return Panel("Logits of teacher and students", figure, " ".join(words), told=True, height=22)


def _image(found: Example, source: Source) -> Panel:
    label = source.classes[int(source.details.targets[found.position])]
    index = int(source.details.indices[found.position])
    shown = Picture(source.details.picture(found.position), f"label: {label}", f"test image {index}")
    return Panel("The image", None, f"Test image {index}, of class {label}.", pictures=(shown,), large=True)

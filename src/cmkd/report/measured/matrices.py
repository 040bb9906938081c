"""The mean logit matrix of teacher and student, and their difference (figure 2 of the paper)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cmkd.report.figures import Panel, canvas
from cmkd.report.measured.sources import Source, Sources, one_teacher, plain
from cmkd.report.palette import css_color
from cmkd.report.sections import Section

if TYPE_CHECKING:
    from torch import Tensor

#: Cells along either side at most: with more classes, neighbouring ones are averaged.
MOST_CELLS = 100
#: Methods whose matrices are drawn.
MOST_METHODS = 3
#: With more classes than this their names are told on hovering only.
NAMED = 20


def mean_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean logits of the images of every class.

    Each image's logits are brought to mean 0 and standard deviation 1 first, so that two networks can be
    compared whatever the scale of their logits.

    Args:
        logits: `(N, C)`.
        targets: Class indices `(N,)`.

    Returns:
        `(C, C)` float64: row = label, column = class of the logit; NaN in the row of a class without image.

    Example:
        >>> import torch
        >>> mean_logits(torch.tensor([[1.0, 0.0], [3.0, 5.0]]), torch.tensor([0, 0]))
        tensor([[0., 0.],
                [nan, nan]], dtype=torch.float64)
    """
    from cmkd.functional import standardize

    classes = logits.shape[1]
    z = standardize(logits.double(), dim=1)
    sums = z.new_zeros(classes, classes).index_add_(0, targets, z)
    return sums / targets.bincount(minlength=classes)[:, None]


def in_blocks(matrix: Tensor, most: int = MOST_CELLS) -> tuple[Tensor, int]:
    """Average blocks of neighbouring classes until a matrix has at most so many cells along its sides.

    Returns:
        The matrix, and how many classes a cell stands for.
    """
    import torch

    classes = len(matrix)
    size = -(-classes // most)
    if size == 1:
        return matrix, 1
    cells = -(-classes // size)
    padded = matrix.new_full((cells * size, cells * size), float("nan"))
    padded[:classes, :classes] = matrix
    blocks = padded.view(cells, size, cells, size).transpose(1, 2).flatten(2)
    return torch.nanmean(blocks, 2), size


def sections(sources: Sources) -> list[Section]:
    """Return the figure of the matrices, and that of the differences."""
    title, difference = "Mean logits, class by class", "Mean logits: student less teacher"
    drawn = one_teacher(sources.taught)[:MOST_METHODS]
    if not drawn:
        absent = sources.nothing("No teacher was at hand")
        return [Section(title, "", [Panel("Mean logits", None, absent)], key=False)]
    teacher_logits, targets = drawn[0].details.teacher, drawn[0].details.targets
    assert teacher_logits is not None
    teacher, size = in_blocks(mean_logits(teacher_logits, targets))
    students = [in_blocks(mean_logits(source.details.student, targets))[0] for source in drawn]
    names = _names(drawn[0], size)
    limit = _limit(teacher, *students)
    apart = [student - teacher for student in students]
    of = f"{len(targets):,} test images"
    blocks = f" A cell is the mean over {size} neighbouring classes." if size > 1 else ""
    caption = (
        f"Row: label; column: class of the logit; mean over the images of a label, {of} in all. Every "
        "image’s logits were brought to mean 0 and standard deviation 1 first. Blue is low, orange high; "
        f"the colours end at ±{limit:.1f}, so that what is beside the diagonal can be told apart.{blocks}"
    )
    panels = [_panel(drawn[0].teacher_name, teacher, names, limit, "")]
    panels += [
        _panel(source.label, student, names, limit, _likeness(student, teacher))
        for source, student in zip(drawn, students, strict=True)
    ]
    spread = _limit(*apart)
    differences = [
        _panel(source.label, each, names, spread, f"Mean size beside the diagonal {_mean_size(each):.3f}.")
        for source, each in zip(drawn, apart, strict=True)
    ]
    how = (
        "What the student’s matrix has more (orange) or less (blue) than the teacher’s: where it confuses "
        f"classes that the teacher does not, or fails to see them alike. The colours end at ±{spread:.1f}."
    )
    return [
        Section(title, caption + sources.left_out(), panels, key=False),
        Section(difference, how, differences, key=False),
    ]


def _names(source: Source, size: int) -> list[str]:
    classes = [plain(name) for name in source.classes]
    if size == 1:
        return classes
    return [
        f"{classes[begin]} to {classes[min(begin + size, len(classes)) - 1]}"
        for begin in range(0, len(classes), size)
    ]


def _beside(matrix: Tensor) -> Tensor:
    """Return what lies beside the diagonal and is known."""
    import torch

    beside = matrix[~torch.eye(len(matrix), dtype=torch.bool)]
    return beside[~beside.isnan()]


def _limit(*matrices: Tensor) -> float:
    """Return where the colours end: what 99 % of the cells beside the diagonal do not exceed."""
    import torch

    sizes = torch.cat([_beside(matrix).abs() for matrix in matrices])
    return max(float(sizes.quantile(0.99)), 0.1) if len(sizes) else 1.0


def _mean_size(matrix: Tensor) -> float:
    beside = _beside(matrix)
    return float(beside.abs().mean()) if len(beside) else 0.0


def _likeness(student: Tensor, teacher: Tensor) -> str:
    from cmkd.functional import pearson

    mine, theirs = _beside(student), _beside(teacher)
    if len(mine) < 3:
        return ""
    r = float(pearson(mine, theirs))
    return f"Beside the diagonal it correlates with the teacher’s matrix by r = {r:.3f}."


def _panel(title: str, matrix: Tensor, names: list[str], limit: float, words: str) -> Panel:
    figure = canvas(ticks=None, epochs=None)
    cells = [[None if value != value else round(value, 2) for value in row] for row in matrix.tolist()]
    figure.add_heatmap(
        z=cells,
        x=names,
        y=names,
        zmin=-limit,
        zmax=limit,
        colorscale=[[0, css_color(0)], [0.5, "var(--paper)"], [1, css_color(1)]],
        showscale=True,
        colorbar={"thickness": 10, "outlinewidth": 0, "nticks": 5, "len": 1.0},
        hovertemplate="label %{y}<br>logit of %{x}: %{z:.2f}<extra></extra>",
    )
    shown: dict[str, Any] = {"showticklabels": len(names) <= NAMED, "showgrid": False, "ticks": ""}
    figure.update_xaxes(title_text="class of the logit", type="category", **shown)
    figure.update_yaxes(title_text="label", type="category", autorange="reversed", **shown)
    figure.update_layout(hovermode="closest")
    return Panel(title, figure, words or "Its mean logits.", told=bool(words), height=21)

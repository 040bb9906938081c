"""What a grid found: for every pair of teacher and student each method beside the others, and beside one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmkd.bench import published
from cmkd.bench.names import safe
from cmkd.bench.published import Figure
from cmkd.bench.reporting.budget import differing, refuse_unlike, unlike_hardware
from cmkd.bench.reporting.results import Cell, Grid
from cmkd.errors import InputError
from cmkd.files import read_json
from cmkd.report.records import Record
from cmkd.report.statistics import Sample, paired_difference

BASELINE = "KD"


@dataclass(frozen=True)
class Outcome:
    """A method on a pair of teacher and student.

    Args:
        method: Its name in the grid.
        cells: Its runs, one per seed, finished or not.
        accuracy: Test accuracy of the last epoch.
        validation: Accuracy on the validation part, last epoch.
        best: Test accuracy of the epoch in which it was best; of runs that looked at the test set that often.
        difference: Difference in `accuracy` to the baseline, seed by seed; None for the baseline itself.
        agreement: Share of the test images that get the teacher's class.
        rank_correlation: Spearman's rho with the teacher on the test images.
        seconds: Time that the training steps took.
        published: What is published of it.
        unlike: Name of a cell -> in what its budget differs from that of most others of the pair.
    """

    method: str
    cells: list[Cell]
    accuracy: Sample
    validation: Sample
    best: Sample
    difference: Sample | None
    agreement: Sample
    rank_correlation: Sample
    seconds: Sample
    published: list[Figure]
    unlike: dict[str, list[str]]

    @property
    def finished(self) -> list[Record]:
        """What the folders of the finished runs say."""
        return _records(self.cells)


@dataclass(frozen=True)
class Pair:
    """A teacher and a student.

    Args:
        teacher: Name of the teacher in the grid.
        student: Name of the student network.
        network: Network of the teacher; None if it is not known.
        teacher_accuracy: The teacher's accuracy on the test set; None if nobody measured it.
        teacher_published: What is published of the teacher.
        baseline: The method that the others are compared with; None if there is none.
        unlike_hardware: Whether its runs were on different hardware, so that their times say little.
        outcomes: The methods, in the order of the spec.
    """

    teacher: str
    student: str
    network: str | None
    teacher_accuracy: float | None
    teacher_published: list[Figure]
    baseline: str | None
    unlike_hardware: bool
    outcomes: list[Outcome]

    @property
    def name(self) -> str:
        """What it is called."""
        return f"{self.teacher} → {self.student}"


def compare(grid: Grid, baseline: str | None = None) -> list[Pair]:
    """Return what a grid found, pair by pair.

    Args:
        grid: The grid, finished or not.
        baseline: The method that the others are compared with, by its name in the grid; KD by default, if
            there is one.

    Returns:
        Its pairs, in the order of the spec; every method is there, also if none of its runs has finished.

    Raises:
        InputError: Seeds of a method differ in more than the seed, so that there is no mean of them, or the
            grid has no method of that name.
    """
    if baseline is not None and baseline not in grid.methods:
        raise InputError(f"--baseline {baseline} is no method of this grid: take {', '.join(grid.methods)}.")
    return [_pair(grid, *names, cells, baseline) for names, cells in grid.pairs.items()]


def _pair(grid: Grid, teacher: str, student: str, cells: list[Cell], asked: str | None) -> Pair:
    by_method = {
        method: found
        for method in grid.methods
        if (found := [cell for cell in cells if cell.method == method])
    }
    for found in by_method.values():
        if finished := [cell for cell in found if cell.state == "finished"]:
            refuse_unlike(finished)
    baseline = asked if asked in by_method else _baseline(by_method)
    unlike = differing(cells, baseline)
    reference = _sample(by_method[baseline], "test", "accuracy") if baseline else None
    network, teacher_accuracy = _teacher(grid.path / "teachers" / safe(teacher), cells)
    data = next((str(cell.record.config.get("data")) for cell in cells if cell.record is not None), "")
    outcomes = []
    for method, found in by_method.items():
        accuracy = _sample(found, "test", "accuracy")
        outcomes.append(
            Outcome(
                method=method,
                cells=found,
                accuracy=accuracy,
                validation=_sample(found, "last_validation", "accuracy"),
                best=Sample({cell.seed: best[1] for cell in found if (best := best_on_test(cell))}),
                difference=None if method == baseline else _difference(accuracy, reference),
                agreement=_sample(found, "test", "agreement"),
                rank_correlation=_sample(found, "test", "rank_correlation"),
                seconds=_sample(found, "train_seconds"),
                published=published_of(found, data, network, student),
                unlike={cell.name: unlike[cell.name] for cell in found if cell.name in unlike},
            )
        )
    return Pair(
        teacher=teacher,
        student=student,
        network=network,
        teacher_accuracy=teacher_accuracy,
        teacher_published=published.find(data, network, student, "teacher"),
        baseline=baseline,
        unlike_hardware=unlike_hardware(cells),
        outcomes=outcomes,
    )


def _difference(accuracy: Sample, reference: Sample | None) -> Sample | None:
    return None if reference is None else paired_difference(accuracy, reference)


def _records(cells: Sequence[Cell]) -> list[Record]:
    return [cell.record for cell in cells if cell.state == "finished" and cell.record is not None]


def _sample(cells: Sequence[Cell], *keys: str) -> Sample:
    measured = {
        cell.seed: cell.record.measured(*keys)
        for cell in cells
        if cell.state == "finished" and cell.record is not None
    }
    return Sample({seed: value for seed, value in measured.items() if value is not None})


def best_on_test(cell: Cell) -> tuple[int, float] | None:
    """Return the epoch in which a finished run was best on the test set, the first of several, and how good.

    Returns:
        Epoch and accuracy; None for a run that has not finished, or looked at the test set once (`--test`).
    """
    if cell.state != "finished" or cell.record is None:
        return None
    course = cell.record.series("test", "accuracy")
    return max(course.items(), key=lambda item: (item[1], -item[0]), default=None)


def _baseline(by_method: dict[str, list[Cell]]) -> str | None:
    """Return the method called KD, else the only one whose loss is KD's alone; None without."""
    if BASELINE in by_method:
        return BASELINE
    alike = [method for method, cells in by_method.items() if _loss(cells) == BASELINE]
    return alike[0] if len(alike) == 1 else None


def _config(cells: Sequence[Cell]) -> dict[str, Any]:
    return next((cell.record.config for cell in cells if cell.record is not None), {})


def _loss(cells: Sequence[Cell]) -> str | None:
    """Return the name of the loss as the published tables have it; None for several losses together."""
    config = _config(cells)
    loss = config.get("loss") or {}
    if not loss or config.get("with"):
        return None
    return f"{loss['name']}+LS" if loss.get("logit_standardization") else str(loss["name"])


def published_of(cells: Sequence[Cell], data: str, teacher: str | None, student: str) -> list[Figure]:
    """Return what is published of a method.

    Its loss decides, and its name in the grid has to be that of the loss: `DIST` has a published figure, a
    variant of it that somebody calls `DIST, inter-class only` has none. By the name of one figure among
    several, as `KD (T=4)`, it gets that one.
    """
    loss = _loss(cells)
    if loss is None:
        return []
    name = _letters(cells[0].method)
    found = published.find(data, teacher, student, loss)
    if name == _letters(loss):
        return found
    return [figure for figure in found if name == _letters(f"{figure.method} {figure.note}")]


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9+]", "", name.casefold())


def _teacher(folder: Path, cells: Sequence[Cell]) -> tuple[str | None, float | None]:
    """Return the teacher's network, and its accuracy on the test set as runs of its students measured it."""
    records = [cell.record for cell in cells if cell.record is not None]
    network = next((str(each.teacher["network"]) for each in records if each.teacher is not None), None)
    accuracy = next((value for each in records if (value := each.measured("teacher", "accuracy"))), None)
    if accuracy is None:  # students of a cache alone did not see it
        accuracy = ((read_json(folder / "result.json") or {}).get("test") or {}).get("accuracy")
    return network, accuracy

"""What two runs must share for a comparison of their methods to be fair, and where they do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any

from cmkd.bench.reporting.results import Cell
from cmkd.errors import InputError
from cmkd.report.records import Record
from cmkd.report.setting import shown

#: Options that make up a method.
OF_THE_METHOD = frozenset({"loss", "with", "task_weight", "distill_warmup_epochs"})
#: Options that give a method nothing; the precision is that which was found, not that which was asked for.
_NEUTRAL = frozenset({"verb", "seed", "test", "cpu", "precision"})
_OF_THE_TEACHER = ("sha256", "mean", "std", "image_size")


def budget(record: Record) -> dict[str, Any]:
    """Return everything that a method is given: data, epochs, optimiser, teacher, precision and the like.

    An option that did not exist when the run was made has its default; teacher and precision are left out
    where the run did not come so far.
    """
    from cmkd.training import DistillConfig
    from cmkd.training.config import EXECUTION_OPTIONS

    options = {
        each.name: None if each.default is MISSING else each.default
        for each in fields(DistillConfig)
        if each.name != "with_"
    } | record.config
    left_out = OF_THE_METHOD | _NEUTRAL | EXECUTION_OPTIONS
    found = {
        name: value
        for name, value in options.items()
        if name not in left_out and name.partition("_")[0] != "teacher"
    }
    if record.teacher is not None:
        found |= {f"teacher {name}": record.teacher.get(name) for name in _OF_THE_TEACHER}
        found["teacher sha256"] = str(record.teacher.get("sha256"))[:12]
    if record.environment:
        found["precision"] = record.environment.get("precision")
        found["processes"] = record.environment.get("processes", 1)
    return found


def refuse_unlike(cells: Sequence[Cell]) -> None:
    """Refuse to average over runs that are not seeds of the same thing.

    Args:
        cells: Finished cells of one method and pair.

    Raises:
        InputError: Two of them differ in budget or in the options of their method; it names both values.
    """
    first, *others = cells
    for other in others:
        ours, theirs = _everything(first), _everything(other)
        unlike = [
            f"{name} is {shown(ours.get(name))} in the one and {shown(theirs.get(name))} in the other"
            for name in {**ours, **theirs}
            if ours.get(name) != theirs.get(name)
        ]
        if unlike:
            raise InputError(
                f"the cells {first.name} and {other.name} are no seeds of the same run, so that there is no "
                f"mean of them: {'; '.join(unlike)}. Run one of them again with the options of the other."
            )


def _everything(cell: Cell) -> dict[str, Any]:
    assert cell.record is not None, "a finished cell has been read"
    config = cell.record.config
    own = {f"loss.{name}": value for name, value in (config.get("loss") or {}).items()}
    own |= {"with": config.get("with"), "task_weight": config.get("task_weight")}
    own["distill_warmup_epochs"] = config.get("distill_warmup_epochs", 0.0)
    return {**budget(cell.record), **own}


def differing(cells: Sequence[Cell], first: str | None) -> dict[str, list[str]]:
    """Return in what the budgets of cells differ from those of most of the others.

    Args:
        cells: Cells of one pair.
        first: The method that decides where as many cells have the one value as the other.

    Returns:
        Name of a cell -> for example `["epochs 8 (others 4)"]`, for cells that differ in something.
    """
    budgets = {cell.name: budget(cell.record) for cell in cells if cell.record is not None}
    ordered = sorted((cell for cell in cells if cell.name in budgets), key=lambda cell: cell.method != first)
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for each in budgets.values() for name in each):
        having = [cell for cell in ordered if name in budgets[cell.name]]
        usual = _most_common([budgets[cell.name][name] for cell in having])
        for cell in having:
            value = budgets[cell.name][name]
            if value != usual:
                words = f"{name} {shown(value)} (others {shown(usual)})"
                found.setdefault(cell.name, []).append(words)
    return found


def _most_common(values: Sequence[Any]) -> Any:
    """Return the value that occurs most often, of several the first; values may be lists."""
    counted = Counter(map(repr, values))
    return max(values, key=lambda value: counted[repr(value)])


def unlike_hardware(cells: Sequence[Cell]) -> bool:
    """Whether cells ran on different hardware, so that their times cannot be compared."""
    keys = ("hardware", "device", "threads", "processes")
    ran = {
        tuple(cell.record.environment.get(key) for key in keys)
        for cell in cells
        if cell.record is not None and cell.record.environment
    }
    return len(ran) > 1

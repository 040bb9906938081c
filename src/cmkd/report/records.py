"""Run folders as data: what was asked for, what was measured, and how to pool the runs of one method."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from cmkd.errors import InputError
from cmkd.files import read_json

if TYPE_CHECKING:
    from cmkd.training import RunFolder

#: Method -> its runs, one per seed.
Groups: TypeAlias = "Mapping[str, Sequence[RunFolder | str | os.PathLike[str]]]"


@dataclass(frozen=True)
class Record:
    """What a run folder says.

    Args:
        path: The folder.
        config: Options of the run (`config.yaml`).
        environment: Versions, hardware, precision (`environment.json`); empty before training began.
        teacher: What is known of the teacher (`teacher.json`); None for a run on labels alone.
        epochs: One row per epoch (`metrics.jsonl`).
        result: Test scores and cost (`result.json`); None for a run that has not finished.
    """

    path: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    teacher: dict[str, Any] | None
    epochs: list[dict[str, Any]]
    result: dict[str, Any] | None

    def measured(self, *keys: str) -> float | None:
        """Return a number of the result, for example `measured("test", "accuracy")`; None without it."""
        return _number(self.result or {}, keys)

    def series(self, *keys: str) -> dict[int, float]:
        """Return a number of every epoch that has it, for example `series("train", "loss")`, by epoch."""
        numbers = ((row["epoch"], _number(row, keys)) for row in self.epochs)
        return {epoch: number for epoch, number in numbers if number is not None}


Records: TypeAlias = dict[str, list[Record]]


def _number(tree: dict[str, Any], keys: Sequence[str]) -> float | None:
    value: Any = tree
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    # A mean over nothing is NaN: not a measurement.
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def read_groups(groups: Groups) -> Records:
    """Read the runs of every method.

    Args:
        groups: Method -> its runs.

    Returns:
        Method -> what its runs say, in the same order.

    Raises:
        InputError: There is nothing to read, or a folder is no run.
    """
    if not groups:
        raise InputError("there are no runs to report on; give at least one run folder.")
    empty = [label for label, runs in groups.items() if not runs]
    if empty:
        raise InputError(f"the method {empty[0]!r} has no runs; give at least one run folder for it.")
    return {label: [read_run(run) for run in runs] for label, runs in groups.items()}


def read_run(run: RunFolder | str | os.PathLike[str]) -> Record:
    """Return what a run folder says; raise `InputError` if it is none, or not readable."""
    from cmkd.training import RunFolder  # brings Accelerate and timm along

    folder = run if isinstance(run, RunFolder) else RunFolder(Path(run))
    path = folder.path
    config = folder.read_config()

    try:
        epochs = folder.read_metrics()
    except json.JSONDecodeError as error:
        raise InputError(
            f"{folder.metrics} has a row that is not valid JSON ({error}); repeat the run's command, which "
            "mends it."
        ) from None
    return Record(
        path,
        config,
        read_json(path / "environment.json") or {},
        read_json(path / "teacher.json"),
        epochs,
        read_json(path / "result.json"),
    )


def read_evaluation(run: Record) -> dict[str, Any] | None:
    """Return `evaluation.json` of a run, if it is there, is readable and is of the test set."""
    try:
        found: dict[str, Any] = json.loads((run.path / "evaluation.json").read_text(encoding="utf-8"))
        return found if found["setting"]["part"] == "test" else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def pooled(records: Sequence[Record], *keys: str) -> dict[int, list[float]]:
    """Return a number of every epoch over all runs of a method: epoch -> one value per run that has it."""
    values: dict[int, list[float]] = {}
    for record in records:
        for epoch, value in record.series(*keys).items():
            values.setdefault(epoch, []).append(value)
    return dict(sorted(values.items()))


def measured(records: Sequence[Record], *keys: str) -> list[float]:
    """Return a number of the results over all runs of a method, one value per run that has it."""
    return [value for record in records if (value := record.measured(*keys)) is not None]


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and, for more than one value, the sample standard deviation."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def in_common(records: Records, look: Callable[[Record], str]) -> str:
    """Say what all runs share, or which method has what.

    Args:
        records: Method -> its runs.
        look: Returns what a run has, as text.

    Returns:
        The shared text; else for example `"4 (KD); 8 (CE, CMKD)"`.
    """
    methods: dict[str, list[str]] = {}
    for label, runs in records.items():
        seen = ", ".join(dict.fromkeys(look(run) for run in runs))
        methods.setdefault(seen, []).append(label)
    if len(methods) == 1:
        return next(iter(methods))
    return "; ".join(f"{text} ({', '.join(labels)})" for text, labels in methods.items())


def count(number: int, noun: str) -> str:
    """Return for example `"1 seed"` or `"1,000 images"`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"

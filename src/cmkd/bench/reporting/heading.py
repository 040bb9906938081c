"""How a grid was measured, in words: what its runs share, where they differ, and how they were tuned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cmkd.bench.reporting.comparing import Pair
from cmkd.bench.reporting.results import Grid
from cmkd.bench.reporting.tuning import tuning
from cmkd.bench.reporting.wording import tally
from cmkd.report.records import Record, Records, count, in_common
from cmkd.report.setting import DEFINITIONS, setting, shown

SCORES = {
    "Test accuracy": "Share of the test images given the right class by the network of the last epoch; mean "
    "± sample standard deviation over the seeds (n).",
    "Best epoch": "The epoch with the highest accuracy on the test set itself, which no honest choice can "
    "know: an optimistic figure, to be held against published ones. Only for runs with `--test each`.",
    "Difference": "Of the test accuracy of the last epoch, in percentage points, seed by seed: runs of one "
    "seed share initial weights, batches and augmentation. In brackets the 95 % confidence interval of the "
    "mean (Student’s t). Every interval is for its own comparison, not corrected for their number.",
    "Agreement": DEFINITIONS["Agreement"],
    "Rank correlation": DEFINITIONS["Rank correlation"],
    "Training time": "Wall time of the training steps of a run, without validation; mean over the seeds.",
    "Published": "Top-1 accuracy (%) as its source has it. On CIFAR-100 of 240 epochs, on ImageNet of 100, "
    "unless it says otherwise; most sources report the best epoch on the test set, and not how many trials "
    "chose their options. The teacher’s weights were others than here.",
}
_LEFT_OUT = {*SCORES, "CPU latency", "Revision", "Teacher", "Objective", "Seeds"}


def heading(grid: Grid, pairs: Sequence[Pair]) -> dict[str, str]:
    """Return how a grid was measured: topic -> text.

    Where pairs differ the text says which has what; for seeds, which method has what.
    """
    by_pair = _begun({pair.name: _records(pair) for pair in pairs})
    found = {"Command": f"cmkd bench {shown(grid.spec)}", "Cells": tally(grid.cells)}
    if by_pair:
        by_method = _begun(
            {
                method: [
                    cell.record for cell in grid.cells if cell.method == method and cell.record is not None
                ]
                for method in grid.methods
            }
        )
        for topic, text in setting(by_pair).items():
            if topic not in _LEFT_OUT:
                found[topic] = text
            if topic == "Images":
                found["Augmentation"] = in_common(by_pair, _augmentation)
        found["Seeds"] = _seeds(pairs, by_method)
        found["Teacher"] = in_common(by_pair, _teacher)
        found["Teacher’s logits"] = in_common(by_method, _logits)
        found["Revision"] = _revisions([record for records in by_pair.values() for record in records])
        for method in by_method:
            of_method = _begun({pair.name: _records(pair, method) for pair in pairs})
            found[f"Objective of {method}"] = setting(of_method)["Objective"]
    found["Tuning"] = tuning(grid)
    outcomes = [outcome for pair in pairs for outcome in pair.outcomes]
    measured = {
        "Best epoch": any(outcome.best.values for outcome in outcomes),
        "Difference": any(outcome.difference for outcome in outcomes),
        "Published": any(pair.teacher_published for pair in pairs)
        or any(outcome.published for outcome in outcomes),
    }
    return found | {topic: text for topic, text in SCORES.items() if measured.get(topic, True)}


def _records(pair: Pair, method: str | None = None) -> list[Record]:
    """Return what has begun of a pair, of all its methods by default."""
    return [
        cell.record
        for outcome in pair.outcomes
        for cell in outcome.cells
        if cell.record is not None and method in (None, outcome.method)
    ]


def _begun(records: Records) -> Records:
    return {label: runs for label, runs in records.items() if runs}


def _seeds(pairs: Sequence[Pair], by_method: Records) -> str:
    """Name the seeds; with their number if every mean is over as many: a mean is over the seeds of a pair."""
    seeds = in_common(by_method, lambda run: shown(run.config.get("seed")))
    sizes = {len(outcome.finished) for pair in pairs for outcome in pair.outcomes}
    number = sizes.pop() if len(sizes) == 1 else 0
    return f"{seeds} (n = {number} per method{' and pair' if len(pairs) > 1 else ''})" if number else seeds


def _augmentation(run: Record) -> str:
    name = run.config.get("augment") or f"{customary(str(run.config.get('data')))} (the data set’s own)"
    views = run.config.get("views")
    shown_as = "new in every epoch" if views is None else f"{count(views, 'view')} of an image in turn"
    return f"{name}; {shown_as}"


def customary(data: str) -> str:
    """Return the augmentation of a run without the option `augment`; sets in memory are small images."""
    return "resized_crop_flip" if ":" in data else "crop_flip"


def _teacher(run: Record) -> str:
    teacher = run.teacher
    if teacher is None:
        return "not opened yet"
    size = f"{teacher['parameters']:,} parameters"
    return f"{teacher['network']} from {shown(teacher['source'])}, {size}, weights {teacher['sha256'][:12]}"


def _logits(run: Record) -> str:
    return str((run.teacher or {}).get("logits", "unknown"))


def _revisions(records: Sequence[Record]) -> str:
    """Name the revisions of cmkd that made the runs; mixed ones with the number of their runs."""
    counted = Counter(
        str(record.environment.get("revision") or f"version {record.environment.get('cmkd')}")
        for record in records
        if record.environment
    )
    changed = (
        " (-dirty: with changes that were not committed)" if any("-dirty" in each for each in counted) else ""
    )
    if len(counted) < 2:
        return next(iter(counted), "unknown") + changed
    listed = (f"{revision} ({count(runs, 'run')})" for revision, runs in counted.most_common())
    return f"mixed: {'; '.join(listed)}{changed}"

"""The report of a grid as CSV: a row for every cell with all that is known of it, one for every method."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cmkd.bench.reporting.comparing import Outcome, Pair, best_on_test
from cmkd.bench.reporting.results import Cell
from cmkd.bench.reporting.wording import budgets, links
from cmkd.report.statistics import Sample


def cells_csv(pairs: Sequence[Pair], out: Path) -> str:
    """Return a row per cell: what and where it is, what it measured, its environment and all of its options.

    Scores are shares in [0, 1] as measured, unrounded; keys of files are joined by dots, as in
    `test.accuracy`; lists and mappings are JSON.
    """
    return _csv(
        [
            _cell(pair, outcome, cell, out)
            for pair in pairs
            for outcome in pair.outcomes
            for cell in outcome.cells
        ]
    )


def summary_csv(pairs: Sequence[Pair]) -> str:
    """Return a row per pair and method: means, standard deviations and intervals, unrounded, as shares."""
    return _csv([_outcome(pair, outcome) for pair in pairs for outcome in pair.outcomes])


def _cell(pair: Pair, outcome: Outcome, cell: Cell, out: Path) -> dict[str, Any]:
    row: dict[str, Any] = {
        "teacher": cell.teacher,
        "teacher_network": pair.network,
        "student": cell.student,
        "method": cell.method,
        "seed": cell.seed,
        "state": cell.state,
        "told": cell.told,
        **{f"{name}_path": address for name, address in links(cell, out).items()},
        "unlike_budget": "; ".join(outcome.unlike.get(cell.name, [])),
        "published": "; ".join(map(str, outcome.published)),
    }
    record = cell.record
    if record is None:
        return row
    if best := best_on_test(cell):
        row |= {"best_test_epoch": best[0], "best_test_accuracy": best[1]}
    row |= _flat("", record.result or {})
    row |= _flat("environment.", record.environment)
    row |= _flat("teacher.", _teacher(record.teacher or {}))
    return row | _flat("option.", record.config)


def _teacher(card: dict[str, Any]) -> dict[str, Any]:
    """Return what a run knew of its teacher; `teacher.accuracy` is that on the test set, from its result."""
    named = {"validation_accuracy" if key == "accuracy" else key: value for key, value in card.items()}
    return {key: value for key, value in named.items() if key != "members"}


def _outcome(pair: Pair, outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {
        "teacher": pair.teacher,
        "teacher_network": pair.network,
        "teacher_accuracy": pair.teacher_accuracy,
        "student": pair.student,
        "method": outcome.method,
        "cells": len(outcome.cells),
        "finished": len(outcome.finished),
        "seeds": " ".join(str(seed) for seed in outcome.accuracy.values),
    }
    measured = {
        "accuracy": outcome.accuracy,
        "validation_accuracy": outcome.validation,
        "best_test_accuracy": outcome.best,
        "agreement": outcome.agreement,
        "rank_correlation": outcome.rank_correlation,
        "train_seconds": outcome.seconds,
    }
    for name, sample in measured.items():
        row |= {f"{name}_mean": sample.mean, f"{name}_std": sample.spread}
    difference = outcome.difference or Sample({})
    row["baseline"] = pair.baseline
    row |= {"difference_mean": difference.mean, "difference_half_width_95": difference.half_width}
    row["difference_seeds"] = " ".join(map(str, difference.values))
    row["unlike_budget"] = budgets(outcome)
    row["published"] = " ".join(f"{figure.accuracy:.4f}" for figure in outcome.published)
    row["published_source"] = "; ".join(
        f"{figure.source}{f' ({figure.note})' if figure.note else ''}" for figure in outcome.published
    )
    return row


def _flat(prefix: str, tree: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(f"{prefix}{key}.", value)
        else:
            flat[f"{prefix}{key}"] = json.dumps(value) if isinstance(value, list) else value
    return flat


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    columns = dict.fromkeys(column for row in rows for column in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()

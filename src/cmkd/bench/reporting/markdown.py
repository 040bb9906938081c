"""The report of a grid as Markdown: a table for every pair, what went wrong, and where each cell lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cmkd.bench.reporting.comparing import Outcome, Pair, best_on_test
from cmkd.bench.reporting.results import Cell
from cmkd.bench.reporting.tuning import TRIALS
from cmkd.bench.reporting.wording import (
    OVERVIEW,
    duration,
    links,
    overview,
    remarks,
    rows,
    trouble,
    unfinished,
)
from cmkd.report.table import ABSENT, aligned, escaped


def pair_tables(pairs: Sequence[Pair]) -> str:
    """Return the tables of all pairs, each with what has to be known of it, and before them an overview."""
    tables = [_pair(pair) for pair in pairs]
    if len(pairs) > 1:
        tables.insert(0, f"## Overview\n\n{aligned(_escaped(overview(pairs)))}\n\n{OVERVIEW}")
    return "\n\n".join(tables)


def _escaped(table: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    return [{escaped(heading): escaped(text) for heading, text in row.items()} for row in table]


def _pair(pair: Pair) -> str:
    notes = [f"- {escaped(remark)}" for remark in remarks(pair)]
    notes += [f"- {_name(cell)} {escaped(trouble(cell))}" for cell in unfinished(pair)]
    parts = [f"## {escaped(pair.name)}", aligned(_escaped(rows(pair))), "\n".join(notes)]
    return "\n\n".join(part for part in parts if part)


def _name(cell: Cell) -> str:
    return f"{escaped(cell.method)}, seed {cell.seed}:"


def document(
    title: str,
    lead: str,
    pairs: Sequence[Pair],
    setting: Mapping[str, str],
    trials: Sequence[Mapping[str, str]],
    out: Path,
) -> str:
    """Return the whole report.

    Args:
        title: Its title.
        lead: The paragraph below it.
        pairs: The pairs.
        setting: How it was measured: topic -> text.
        trials: Rows of the table of trials.
        out: The folder that it is written to, from which links lead to the cells.
    """
    measured = "\n".join(f"- **{escaped(topic)}:** {escaped(text)}" for topic, text in setting.items())
    cells = "\n\n".join(f"### {escaped(pair.name)}\n\n{_cells(pair, out)}" for pair in pairs)
    return (
        f"# {escaped(title)}\n\n{escaped(lead)}\n\n{pair_tables(pairs)}\n\n## How it was measured\n\n"
        f"{measured}\n\n{_tuning(trials)}## Cells\n\n{cells}\n"
    )


def _tuning(trials: Sequence[Mapping[str, str]]) -> str:
    return f"## Tuning\n\n{aligned(_escaped(trials))}\n\n{TRIALS}\n\n" if trials else ""


def _cells(pair: Pair, out: Path) -> str:
    table = []
    for outcome in pair.outcomes:
        for cell in outcome.cells:
            found = cell_row(cell, outcome)
            linked = [f"[{name}]({address})" for name, address in links(cell, out).items()]
            table.append(
                {heading: escaped(text) for heading, text in found.items()} | {"files": ", ".join(linked)}
            )
    return aligned(table)


def cell_row(cell: Cell, outcome: Outcome) -> dict[str, str]:
    """Return the row of a cell in the list of all cells: heading -> text."""
    record, best = cell.record, best_on_test(cell)
    accuracy = record.measured("test", "accuracy") if record else None
    seconds = record.measured("train_seconds") if record else None
    return {
        "method": cell.method,
        "seed": str(cell.seed),
        "state": trouble(cell),
        "unlike the others in": "; ".join(outcome.unlike.get(cell.name, [])) or ABSENT,
        "test accuracy (%)": ABSENT if accuracy is None else f"{100 * accuracy:.2f}",
        "best (%), epoch": ABSENT if best is None else f"{100 * best[1]:.2f}, {best[0]}",
        "training time": ABSENT if seconds is None else duration(seconds),
        "revision": str((record.environment if record else {}).get("revision") or ABSENT),
    }

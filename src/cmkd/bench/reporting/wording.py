"""How the numbers of a grid are written, in every table alike."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from cmkd.bench.reporting.comparing import Outcome, Pair
from cmkd.bench.reporting.results import Cell
from cmkd.report.records import count
from cmkd.report.statistics import Sample
from cmkd.report.table import ABSENT, averaged

VALIDATION = "validation accuracy (%)"
BEST = "best epoch on the test set (%), optimistic"
OVERVIEW = (
    "Test accuracy (%) of the last epoch, mean ± sample standard deviation over the seeds that have "
    "finished. †: with another budget than the other methods of the pair."
)


def percent(sample: Sample) -> str:
    """Return for example `71.43 ± 0.21`, in percent; a dash without a value."""
    return spread(sample, 100, 2)


def spread(sample: Sample, factor: float, decimals: int) -> str:
    """Return the mean of a sample ± its standard deviation, as far as there are values."""
    return averaged(list(sample.values.values()), factor, decimals)


def interval(difference: Sample | None) -> str:
    """Return for example `+0.62 [+0.11, +1.13]`, in points; `n/a` for the interval of a single seed."""
    if difference is None or difference.mean is None:
        return ABSENT
    mean = 100 * difference.mean
    if difference.half_width is None:
        return f"{mean:+.2f} [n/a]"
    half = 100 * difference.half_width
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


def duration(seconds: float) -> str:
    """Return for example `42 s`, `12.5 min` or `3.4 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"


def row(outcome: Outcome, pair: Pair) -> dict[str, str]:
    """Return the row of a method in the table of its pair: heading -> text."""
    total, finished = len(outcome.cells), len(outcome.finished)
    compared = {f"difference to {pair.baseline} (points), 95 % CI": interval(outcome.difference)}
    return {
        "method": outcome.method + (" †" if outcome.unlike else ""),
        "n": str(total) if finished == total else f"{finished} of {total}",
        "test accuracy (%)": percent(outcome.accuracy),
        VALIDATION: percent(outcome.validation),
        BEST: percent(outcome.best),
        **(compared if pair.baseline else {}),
        "agreement with teacher (%)": percent(outcome.agreement),
        "rank correlation with teacher": spread(outcome.rank_correlation, 1, 3),
        "training time": ABSENT if outcome.seconds.mean is None else duration(outcome.seconds.mean),
        "published (%)": "; ".join(map(str, outcome.published)) or ABSENT,
    }


def rows(pair: Pair) -> list[dict[str, str]]:
    """Return the table of a pair, the teacher first; columns in which nothing was measured are left out.

    The accuracy on the validation part is there if some run did not look at the test set.
    """
    found = [row(outcome, pair) for outcome in pair.outcomes]
    teacher = dict.fromkeys(found[0], ABSENT) | {
        "method": f"Teacher ({pair.network or pair.teacher})",
        "test accuracy (%)": ABSENT
        if pair.teacher_accuracy is None
        else f"{100 * pair.teacher_accuracy:.2f}",
        "published (%)": "; ".join(map(str, pair.teacher_published)) or ABSENT,
    }
    everything = [teacher, *found]
    always = {"method", "n", "test accuracy (%)"}
    untested = any(_untested(outcome) for outcome in pair.outcomes)
    kept = [
        heading
        for heading in teacher
        if heading in always
        or (any(each[heading] != ABSENT for each in everything) and (untested or heading != VALIDATION))
    ]
    return [{heading: each[heading] for heading in kept} for each in everything]


def _untested(outcome: Outcome) -> bool:
    """Whether some of the finished runs did not look at the test set."""
    return len(outcome.accuracy.values) < len(outcome.finished)


def overview(pairs: Sequence[Pair]) -> list[dict[str, str]]:
    """Return the table of all pairs, the teachers first: a row per method, a column per pair."""
    teachers = {
        pair.name: ABSENT if pair.teacher_accuracy is None else f"{100 * pair.teacher_accuracy:.2f}"
        for pair in pairs
    }
    methods = dict.fromkeys(outcome.method for pair in pairs for outcome in pair.outcomes)
    table = [{"method": "Teacher", **teachers}]
    for method in methods:
        row = {"method": method, **dict.fromkeys(teachers, ABSENT)}
        for pair in pairs:
            for outcome in pair.outcomes:
                if outcome.method == method:
                    row[pair.name] = _in_overview(outcome)
        table.append(row)
    return table


def _in_overview(outcome: Outcome) -> str:
    finished = len(outcome.finished)
    fewer = f" (n = {finished})" if 0 < finished < len(outcome.cells) else ""
    return percent(outcome.accuracy) + fewer + (" †" if outcome.unlike else "")


def remarks(pair: Pair) -> list[str]:
    """Return what has to be known of a pair's table: unlike budgets, intervals that are missing, and why."""
    said = [
        f"† {outcome.method} had another budget than the rest: {budgets(outcome)}."
        for outcome in pair.outcomes
        if outcome.unlike
    ]
    if untested := [outcome.method for outcome in pair.outcomes if _untested(outcome)]:
        said.append(f"Runs that did not look at the test set: {'; '.join(untested)}.")
    if pair.baseline is None:
        said.append("No method here is KD, so that there is no difference to it; --baseline takes another.")
    alone = [
        outcome.method
        for outcome in pair.outcomes
        if outcome.difference is not None
        and outcome.difference.values
        and outcome.difference.half_width is None
    ]
    if alone:
        said.append(
            f"No confidence interval (n/a) for {'; '.join(alone)}: it needs two or more seeds that both "
            f"the method and {pair.baseline} have finished, and there is one."
        )
    fewer = [
        f"{outcome.method} ({', '.join(map(str, outcome.difference.values))})"
        for outcome in pair.outcomes
        if outcome.difference is not None
        and 0 < len(outcome.difference.values) < len(outcome.accuracy.values)
    ]
    if fewer:
        said.append(f"Differences over the seeds that both have finished: {'; '.join(fewer)}.")
    if pair.unlike_hardware:
        said.append("The runs had different hardware or numbers of threads, so that their times say little.")
    return said


def budgets(outcome: Outcome) -> str:
    """Return in what the budget of a method differs, with the seeds if it is not in all of its cells."""
    found: dict[str, list[int]] = {}
    for cell in outcome.cells:
        for words in outcome.unlike.get(cell.name, []):
            found.setdefault(words, []).append(cell.seed)
    return "; ".join(
        words if len(seeds) == len(outcome.cells) else f"{words}, seed {', '.join(map(str, seeds))}"
        for words, seeds in found.items()
    )


def trouble(cell: Cell) -> str:
    """Return in one line why a cell has no result."""
    return f"{cell.state}: {cell.told}" if cell.told else cell.state


def unfinished(pair: Pair) -> list[Cell]:
    """Return the cells of a pair that have no result."""
    return [cell for outcome in pair.outcomes for cell in outcome.cells if cell.state != "finished"]


def tally(cells: list[Cell]) -> str:
    """Return for example `5 of 6 cells finished, 1 failed`."""
    states = [cell.state for cell in cells]
    rest = [f"{states.count(state)} {state}" for state in dict.fromkeys(states) if state != "finished"]
    return ", ".join([f"{states.count('finished')} of {count(len(cells), 'cell')} finished", *rest])


def link(target: Path, out: Path) -> str:
    """Return a relative address of a file or folder, for a page that lies in `out`."""
    address = quote(Path(os.path.relpath(target, out)).as_posix())
    return f"{address}/" if target.is_dir() else address


def links(cell: Cell, out: Path) -> dict[str, str]:
    """Return where a cell's files are, of those that exist: name -> relative address."""
    named = {
        "folder": cell.folder,
        "log": cell.log,
        "curves": cell.folder / "report.html",
        "options": cell.job,
    }
    return {name: link(target, out) for name, target in named.items() if target.exists()}

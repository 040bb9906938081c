"""The summary table: what each method reached on the test set, and what its network costs."""

from __future__ import annotations

import html
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cmkd.report.grouping import distinct_names
from cmkd.report.records import Groups, Record, Records, mean_and_spread, measured, read_groups

#: In a cell: not measured.
ABSENT = "–"


@dataclass(frozen=True)
class Column:
    """A column of scores: where they are in `result.json`, and how they are shown."""

    heading: str
    key: str
    factor: float
    decimals: int

    def show(self, values: Sequence[float]) -> str:
        """Return the mean and, for several values, the standard deviation."""
        return averaged(values, self.factor, self.decimals)


def averaged(values: Sequence[float], factor: float, decimals: int) -> str:
    """Return for example `71.43 ± 0.21`: mean and, for several values, standard deviation; else a dash."""
    if not values:
        return ABSENT
    mean, spread = mean_and_spread([factor * value for value in values])
    text = f"{mean:.{decimals}f}"
    return text if spread is None else f"{text} ± {spread:.{decimals}f}"


SCORES = (
    Column("test accuracy (%)", "accuracy", 100, 2),
    Column("agreement with teacher (%)", "agreement", 100, 2),
    Column("rank correlation with teacher", "rank_correlation", 1, 3),
)


def summary_rows(groups: Groups) -> list[dict[str, str]]:
    """Return the summary table, formatted.

    Scores are of the last epoch on the test set: for several runs the mean ± the sample standard deviation.
    The latency is the median over the runs of what each measured as its median.

    Args:
        groups: Method -> its runs, one per seed.

    Returns:
        One dictionary per row, heading -> text, teachers first. Columns without any value are left out; a
        column `runs` is there if some method has several.

    Raises:
        InputError: A folder is no run.
    """
    return rows_of(read_groups(groups))


def rows_of(records: Records) -> list[dict[str, str]]:
    """Return what `summary_rows` does, from runs that have been read."""
    names = teacher_names(records)
    rows = [_teacher_row(names[sha256], record) for sha256, record in teachers(records).items()]
    rows += [_method_row(label, runs) for label, runs in records.items()]
    if all(len(runs) == 1 for runs in records.values()):
        for row in rows:
            del row["runs"]
    kept = [heading for heading in rows[0] if any(row[heading] != ABSENT for row in rows)]
    return [{heading: row[heading] for heading in kept} for row in rows]


def teachers(records: Records) -> dict[str, Record]:
    """Return for every teacher a run that it taught, finished if there is one, by the hash of its weights."""
    found: dict[str, Record] = {}
    for runs in records.values():
        for record in runs:
            if record.teacher is not None:
                known = found.setdefault(record.teacher["sha256"], record)
                if known.result is None and record.result is not None:
                    found[record.teacher["sha256"]] = record
    return found


def teacher_names(records: Records) -> dict[str, str]:
    """Return what the teachers are called, by the hash of their weights."""
    return distinct_names(
        {sha256: str((record.teacher or {})["network"]) for sha256, record in teachers(records).items()}
    )


def _teacher_row(name: str, record: Record) -> dict[str, str]:
    teacher = record.teacher or {}
    return _row(
        f"Teacher ({name})",
        scores=lambda key: measured([record], "teacher", key),
        parameters=[float(teacher["parameters"])],
        latency=measured([record], "teacher", "latency_ms"),
        runs=ABSENT,
    )


def _method_row(label: str, runs: Sequence[Record]) -> dict[str, str]:
    finished = [run for run in runs if run.result is not None]
    counted = str(len(runs)) if len(finished) == len(runs) else f"{len(finished)} of {len(runs)} finished"
    return _row(
        label if finished else f"{label} (not finished)",
        scores=lambda key: measured(runs, "test", key),
        parameters=measured(runs, "parameters"),
        latency=measured(runs, "latency_ms"),
        runs=counted,
    )


def _row(
    name: str,
    *,
    scores: Callable[[str], list[float]],
    parameters: Sequence[float],
    latency: Sequence[float],
    runs: str,
) -> dict[str, str]:
    sizes = dict.fromkeys(f"{value:,.0f}" for value in sorted(parameters))
    return {
        "method": name,
        **{column.heading: column.show(scores(column.key)) for column in SCORES},
        "parameters": ", ".join(sizes) or ABSENT,
        "CPU latency (ms)": f"{statistics.median(latency):.2f}" if latency else ABSENT,
        "runs": runs,
    }


def markdown_table(groups: Groups) -> str:
    """Return the summary table as Markdown.

    Args:
        groups: Method -> its runs, one per seed.

    Returns:
        The table, its columns padded to equal width so that it reads well as plain text too.

    Raises:
        InputError: A folder is no run.
    """
    rows = summary_rows(groups)
    return aligned([{heading: escaped(text) for heading, text in row.items()} for row in rows])


def aligned(rows: Sequence[Mapping[str, str]]) -> str:
    """Return a table in Markdown, its columns padded to equal width.

    Args:
        rows: Heading -> Markdown, the same headings in every row; the first column is aligned to the left.
    """
    headings = list(rows[0])
    cells = [headings, *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        first, *numbers = (
            cell.ljust(width) if position == 0 else cell.rjust(width)
            for position, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "| " + " | ".join([first, *numbers]) + " |"

    rule = "|" + "|".join(
        "-" * (width + 2) if position == 0 else "-" * (width + 1) + ":"
        for position, width in enumerate(widths)
    )
    return "\n".join([line(headings), rule + "|", *map(line, cells[1:])])


def escaped(text: str) -> str:
    """Return a label as Markdown that cannot end its cell or turn into markup."""
    return html.escape(" ".join(text.split()), quote=False).replace("\\", "\\\\").replace("|", "\\|")

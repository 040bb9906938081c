"""Tables and the picture made from what `benchmarks/ranking.py` measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from ranking_machine import in_words
from written import markdown_table

Result = dict[str, Any]
Size = dict[str, Any]

# (rows, classes): least speed-up over torchsort, most multiple of KL; issue 3.
TARGETS = {
    (64, 100): (2, 5),
    (256, 1000): (6, 4),
    (1024, 1000): (7, 4),
    (64, 21841): (10, 3.5),
    (16, 128000): (12, 3.5),
}
SPEARMAN, WHOLE = ("binned", "binned-pure"), ("cmkd", "cmkd-pure")


def tenth(values: Sequence[float]) -> float:
    """Return the 10th percentile, by the nearest rank."""
    return sorted(values)[(len(values) - 1) // 10]


def ratio(size: Size, over: str, under: str) -> float | None:
    """Return the median over the rounds of one contestant's time over another's."""
    times = size["seconds"]
    if over not in times or under not in times:
        return None
    return median(a / b for a, b in zip(times[over], times[under], strict=True))


def first_of(size: Size, keys: Sequence[str]) -> str:
    """Return the first of the contestants that was there: the compiled path, or else the pure one."""
    return next(key for key in keys if key in size["seconds"])


def ratio_table(result: Result) -> str:
    """Return the ratios within the run beside their targets, as Markdown."""
    head = ("B x C", "torchsort / Spearman", "target", "CMKD / KL", "target", "memory, Spearman", "CMKD")
    rows = []
    for size in result["sizes"]:
        spearman, whole = first_of(size, SPEARMAN), first_of(size, WHOLE)
        least, most = TARGETS.get((size["rows"], size["classes"]), (None, None))
        faster, slower = ratio(size, "torchsort", spearman), ratio(size, whole, "kl")
        rows.append(
            [
                _name(size),
                _number(faster, "x"),
                "" if least is None else f">= {least} x",
                _number(slower, "x"),
                "" if most is None else f"<= {most} x",
                _number(size["memory"].get(spearman), "x"),
                _number(size["memory"].get(whole), "x"),
            ]
        )
    return markdown_table(head, rows)


def speed_table(result: Result) -> str:
    """Return what a reader in a hurry asks, as Markdown: the ratios alone, in words."""
    head = (
        "images x classes",
        "Spearman loss, times as fast as torchsort",
        "with torchsort's own rank (l2)",
        "without a compiler",
        "time of CMKD, in KL losses",
    )
    rows = []
    for size in result["sizes"]:
        faster = [ratio(size, "torchsort", key) for key in (first_of(size, SPEARMAN), "l2", "binned-pure")]
        slower = ratio(size, first_of(size, WHOLE), "kl")
        rows.append([_name(size), *(_number(each, "x") for each in (*faster, slower))])
    return markdown_table(head, rows)


def time_table(result: Result) -> str:
    """Return the milliseconds of every contestant, median and 10th percentile, as Markdown."""

    def cell(size: Size, key: str) -> str:
        seconds = size["seconds"].get(key)
        if seconds is None:
            return "–"
        return f"{1e3 * median(seconds):.3g} ({1e3 * tenth(seconds):.3g})"

    return _by_contestant(result, result["sizes"], cell)


def memory_table(result: Result) -> str:
    """Return the peak extra memory of every contestant in multiples of the logits, as Markdown."""
    sizes = [size for size in result["sizes"] if size["memory"]]
    return _by_contestant(result, sizes, lambda size, key: _number(size["memory"].get(key), "x"))


def readme(folder: Path) -> str:
    """Return the text of `README.md`: the tables of all results in a folder."""
    text = [
        "# Cost of the ranking losses",
        "",
        "Written by `python benchmarks/ranking.py`. Forward and backward with respect to the student's",
        "logits; every loss ranks the teacher itself. Sizes are B x C, rows x classes. Ratios are medians",
        "over the rounds of one run, in which all contestants took turns.",
    ]
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if result.get("kind") != "ranking":
            continue
        text += [
            "",
            f"## {path.stem}",
            "",
            f"{in_words(result['machine'])} {result['dtype']}, {result['date']}.",
        ]
        text += ["", f"![Time and memory, {path.stem}]({path.stem}.png)", "", ratio_table(result)]
        text += ["", "Milliseconds, median (10th percentile):", "", time_table(result)]
        if any(size["memory"] for size in result["sizes"]):
            text += ["", "Peak extra memory, the gradient included, in multiples of one set of logits:", ""]
            text += [memory_table(result)]
    return "\n".join(text) + "\n"


def _by_contestant(result: Result, sizes: Sequence[Size], cell: Callable[[Size, str], str]) -> str:
    rows = [[title, *(cell(size, key) for size in sizes)] for key, title in result["titles"].items()]
    return markdown_table(["", *map(_name, sizes)], rows)


def _name(size: Size) -> str:
    return f"{size['rows']} x {size['classes']}"


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.2g} {unit}"

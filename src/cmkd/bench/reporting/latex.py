"""The report of a grid as LaTeX, for the package booktabs: a table with all pairs, and one for every pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cmkd.bench.reporting.comparing import Pair
from cmkd.bench.reporting.wording import OVERVIEW, overview, remarks, rows, trouble, unfinished

_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "→": r"$\to$",
    "±": r"$\pm$",
    "†": r"$\dagger$",
    "–": "--",
    "−": "$-$",
    "ρ": r"$\rho$",
    "[": "{[}",  # at the beginning of a row it would belong to the end of the one before
    "*": "{*}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def document(pairs: Sequence[Pair], setting: Mapping[str, str]) -> str:
    """Return the tables, with how they were measured in comments above them.

    Args:
        pairs: The pairs.
        setting: How it was measured: topic -> text.
    """
    comments = [f"% {' '.join(f'{topic}: {text}'.split())}" for topic, text in setting.items()]
    tables = [_overview(pairs)] if len(pairs) > 1 else []
    tables += [
        _table(rows(pair), f"{pair.name}.", f"pair-{number}", _notes(pair))
        for number, pair in enumerate(pairs)
    ]
    return "\n".join([r"% \usepackage{booktabs}", *comments, "", "\n\n".join(tables), ""])


def _overview(pairs: Sequence[Pair]) -> str:
    """Return the table that papers have: a row per method, a column per pair."""
    students = {"method": "student"} | {pair.name: pair.student for pair in pairs}
    heads = ["teacher", *(pair.teacher for pair in pairs)]
    return _table([students, *overview(pairs)], OVERVIEW, "overview", [], heads=heads)


def _table(
    table: Sequence[Mapping[str, str]],
    caption: str,
    label: str,
    notes: Sequence[str],
    heads: Sequence[str] | None = None,
) -> str:
    headings = list(table[0]) if heads is None else heads
    lines = [" & ".join(map(escaped, line)) + r" \\" for line in (row.values() for row in table)]
    first = 2 if heads is not None else 1  # below the students' names, and the teacher's row
    body = [*lines[:first], r"\midrule", *lines[first:]]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escaped(' '.join([caption, *notes]))}}}",
            rf"\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
            r"\toprule",
            " & ".join(map(escaped, headings)) + r" \\",
            *([r"\midrule"] if heads is None else []),
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _notes(pair: Pair) -> list[str]:
    return remarks(pair) + [f"{cell.method}, seed {cell.seed}: {trouble(cell)}." for cell in unfinished(pair)]


def escaped(text: str) -> str:
    """Return a text without anything that LaTeX would read as a command."""
    return "".join(_SPECIAL.get(character, character) for character in " ".join(text.split()))

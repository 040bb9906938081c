"""How the benchmarks write: numbers as JSON, tables as Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any


def as_json(result: dict[str, Any]) -> str:
    """Write with every list of numbers on a line of its own."""
    text = json.dumps(_rounded(result), indent=1, ensure_ascii=False)
    return re.sub(r"\[[\d.e,\s-]+\]", lambda found: " ".join(found[0].split()), text) + "\n"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column is text and whose others are numbers."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rounded(value: Any) -> Any:
    """Keep four digits of every number: more would be noise, and the files are committed."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value

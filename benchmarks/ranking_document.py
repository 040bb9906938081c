"""Copies the measured tables into `docs/ranking.md` and `README.md`, between the markers that name them.

    python benchmarks/ranking_document.py

The tests fail if a document and the results differ; `ranking.py` and `softness.py` do this at their end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ranking_machine import in_words
from ranking_tables import memory_table, ratio_table, speed_table, time_table
from softness_report import defaults_table, trap_table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "ranking"
DOCUMENTS = (ROOT / "docs" / "ranking.md", ROOT / "README.md")

# Name of the marker -> file it is made from, and how.
TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "softness": ("softness.json", defaults_table),
    "trap": ("softness.json", trap_table),
    "ratios": ("cpu.json", ratio_table),
    "speed": ("cpu.json", speed_table),
    "times": ("cpu.json", time_table),
    "memory": ("cpu.json", memory_table),
    "machine": ("cpu.json", lambda result: in_words(result["machine"])),
}


def filled(text: str) -> str:
    """Return a document with every table as the committed results give it."""
    for name, (file, table) in TABLES.items():
        if (RESULTS / file).exists():
            made = table(json.loads((RESULTS / file).read_text(encoding="utf-8")))
            between = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
            text = re.sub(
                between, lambda found, made=made: f"{found[1]}\n{made}\n\n{found[2]}", text, flags=re.DOTALL
            )
    return text


def main() -> None:
    """Rewrite the documents."""
    for document in DOCUMENTS:
        document.write_text(filled(document.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

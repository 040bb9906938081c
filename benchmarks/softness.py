"""The experiment on which `cmkd.functional.default_softness` rests.

    python benchmarks/softness.py                       # about 4 minutes
    python benchmarks/softness.py --quick               # a smoke test, into runs/

For every rank method, number of classes and softness: the bias at the optimum, the exact Spearman
correlation reached on free logits, the share of entries without gradient, and the likeness of the gradient
to that of a Pearson loss; `softness_measures.py` defines them. Writes `softness.json`, the pictures
`softness.png` and `trap.png`, and the tables in `docs/ranking.md`.

The rule that picks a default: of the softnesses whose Spearman correlation is within 0.01 (after 25 steps),
0.005 (50) and 0.002 (100) of the best softness of the same method, for both shapes of logits and both
optimisers, the one with the least bias; if there is none, the one that stays behind the least. The rule was
fixed before the full run. A trial with 10 and 100 classes had asked for 100 steps of Adam alone, and shown
that this tells little: Adam gives every value the same pace, even one whose gradient is nothing but
rounding, and after 100 steps almost every softness has arrived. The two sharpest softnesses of `binned` and
`laplace` were added after a first full run had picked the edge of their grids.

`default_softness` is no table of these picks but a line through them, 3 / C, within bounds.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import ranking_document
import torch
from ranking_machine import describe_machine
from softness_measures import (
    LEARNING_RATES,
    TOLERANCES,
    bend,
    draw,
    likeness_when_pooled,
    measure,
    shortfall,
    worst_bias,
)
from softness_report import defaults_table, draw_measures, draw_trap

from cmkd.functional import RankMethod, default_softness

ROOT = Path(__file__).parents[1]
# Geometric, around the defaults that were there before the experiment.
GRIDS: dict[RankMethod, tuple[float, ...]] = {
    "binned": tuple(2.0**-halvings for halvings in range(9, -1, -1)),
    "laplace": (0.0064, 0.0111, 0.0192, 0.0333, 0.0577, 0.1, 0.173, 0.3, 0.52, 0.9),
    "l2": (0.1875, 0.375, 0.75, 1.5, 3.0, 6.0, 12.0, 24.0),
}
# Rows long enough need few repetitions.
ROWS = {10: 128, 100: 32, 1000: 8, 21841: 2}


def main() -> None:
    """Measure, apply the rule, write."""
    options = _options()
    torch.set_num_threads(options.threads)
    records = []
    for classes in options.classes:
        for method, grid in GRIDS.items():
            start = time.perf_counter()
            default = default_softness(method, classes)
            of_method = [
                {"method": method, "classes": classes, "softness": softness, "shapes": shapes}
                for softness in sorted({*grid[:: 3 if options.quick else 1], default})
                for shapes in [measure(method, softness, classes, rows=_rows(classes), seed=options.seed)]
            ]
            records += of_method
            picked = pick(of_method)
            print(
                f"C = {classes}, {method}: rule {picked:g}, default {default:g}"
                f" ({time.perf_counter() - start:.0f} s)",
                flush=True,
            )
    result = {
        "kind": "softness",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "seed": options.seed,
        "rows": {str(classes): _rows(classes) for classes in options.classes},
        "tolerances": {str(step): tolerance for step, tolerance in TOLERANCES.items()},
        "learning_rates": LEARNING_RATES,
        "records": [_rounded(record) for record in records],
        "picked": [
            {"method": method, "classes": classes, "softness": pick(_of(records, method, classes))}
            for method in GRIDS
            for classes in options.classes
        ],
        "bend": _bends(options),
        "trap": [
            {"strength": strength, "classes": classes, "cosine": round(cosine, 3)}
            for classes in options.classes
            for strength in (1.0, 0.3, 0.1, 0.03, "3 / C")
            for width in [3 / classes if isinstance(strength, str) else strength]
            for cosine in [likeness_when_pooled(width, classes, rows=_rows(classes), seed=options.seed)]
        ],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    # Every innermost object on a line of its own.
    text = (
        re.sub(r"\{[^{}]*\}", lambda found: " ".join(found[0].split()), json.dumps(result, indent=1)) + "\n"
    )
    (options.out / "softness.json").write_text(text, encoding="utf-8")
    draw_measures(result, options.out / "softness")
    draw_trap(result, options.out / "trap")
    if options.out == ranking_document.RESULTS:
        ranking_document.main()
    print(defaults_table(result))


def pick(records: list[dict[str, Any]]) -> float:
    """Apply the rule to the softnesses of one method and number of classes."""
    shapes = [record["shapes"] for record in records]
    fit = [record for record in records if shortfall(record["shapes"], shapes) <= 1]
    if fit:
        return min(fit, key=lambda record: worst_bias(record["shapes"]))["softness"]
    return min(records, key=lambda record: shortfall(record["shapes"], shapes))["softness"]


def _rows(classes: int) -> int:
    return ROWS.get(classes, 8)


def _of(records: list[dict[str, Any]], method: str, classes: int) -> list[dict[str, Any]]:
    return [each for each in records if (each["method"], each["classes"]) == (method, classes)]


def _bends(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure where soft ranks turn into an affine function of the logits, over a wide range of softness."""
    result = []
    for classes in options.classes:
        rows = max(2, _rows(classes) // 4)
        logits = draw("normal", rows, classes, torch.Generator().manual_seed(options.seed))
        for method in GRIDS:
            # As the strength on standardised logits, the number that users of torchsort know.
            for exponent in range(-12, 7, 3 if options.quick else 1):
                width = 10 ** (exponent / 4)
                softness = width * classes if method == "l2" else width
                value = round(bend(method, softness, logits), 4)
                result.append(
                    {"method": method, "classes": classes, "width": float(f"{width:.4g}"), "bend": value}
                )
    return result


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else value
    return {key: _rounded(each) for key, each in value.items()} if isinstance(value, dict) else value


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10 and 100 classes, a third of the softnesses")
    parser.add_argument("--classes", nargs="+", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="folder (results/ranking; quick: runs/ranking)")
    options = parser.parse_args()
    options.classes = options.classes or ([10, 100] if options.quick else list(ROWS))
    options.out = options.out or ROOT / ("runs" if options.quick else "results") / "ranking"
    return options


if __name__ == "__main__":
    main()

"""Tables made from what `benchmarks/throughput.py` measured."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from ranking_machine import in_words
from written import markdown_table

Result = dict[str, Any]
Pair = dict[str, Any]

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "throughput"
DOCUMENT = ROOT / "docs" / "training.md"

# Phases as they are shown; the student's is its forward and the whole backward pass.
PHASES = {
    "data": ("data",),
    "teacher": ("teacher",),
    "student": ("student", "backward"),
    "loss": ("loss",),
    "optimiser": ("optimiser",),
    "other": ("other",),
}


class Ratio(NamedTuple):
    """A ratio of speeds: the summed step times of `over` by the step time of `under`.

    Args:
        title: For the table.
        over: Contestants whose times are added up.
        under: The contestant that is judged.
        target: What is asked for, and in which pairs; None in all.
    """

    title: str
    over: tuple[str, ...]
    under: str
    target: str = ""
    pairs: tuple[str, ...] | None = None


_CACHED, _LIVE = ("limit-student",), ("limit-student", "limit-teacher")
# Issue 4. Beside others the loss is KD, as theirs; beside the limits both.
RATIOS = (
    Ratio("cache, KD / limit of the student", _CACHED, "cmkd-cache-kd", ">= 0.95"),
    Ratio("cache, CMKD / limit of the student", _CACHED, "cmkd-cache-cmkd", ">= 0.95"),
    Ratio("live teacher, KD / limit of student and teacher", _LIVE, "cmkd-live-kd", ">= 0.95"),
    Ratio("live teacher, CMKD / limit of student and teacher", _LIVE, "cmkd-live-cmkd", ">= 0.95"),
    Ratio("cache / plain loop", ("plain",), "cmkd-cache-kd", ">= 6", ("cifar",)),
    Ratio("live teacher / plain loop", ("plain",), "cmkd-live-kd", ">= 3", ("cifar",)),
    Ratio("cache / torchdistill", ("torchdistill",), "cmkd-cache-kd", ">= 4", ("cifar",)),
    Ratio("live teacher / torchdistill", ("torchdistill",), "cmkd-live-kd", ">= 2", ("cifar",)),
    Ratio("cache / timm's task", ("timm",), "cmkd-cache-kd"),
    Ratio("live teacher / timm's task", ("timm",), "cmkd-live-kd"),
    Ratio("step with CMKD / with KD, cache", ("cmkd-cache-cmkd",), "cmkd-cache-kd", "<= 1.02", ("cifar",)),
    Ratio("step with CMKD / with KD, live", ("cmkd-live-cmkd",), "cmkd-live-kd", "<= 1.02", ("cifar",)),
)


def ratio(pair: Pair, over: Sequence[str], under: str) -> float | None:
    """Return the median over the rounds; None if one of the contestants was not there."""
    found = pair["contestants"]
    if any(key not in found for key in (*over, under)):
        return None
    rounds = zip(*(found[key]["seconds"] for key in (*over, under)), strict=True)
    return median(sum(others) / own for *others, own in rounds)


def ratio_table(result: Result) -> str:
    """Return the ratios within the run beside their targets, as Markdown."""
    rows = []
    for each in RATIOS:
        values = [ratio(pair, each.over, each.under) for pair in result["pairs"]]
        cells = [
            "–" if value is None else f"{value:.3g}{'' if _asked(each, pair) else ' (no target)'}"
            for value, pair in zip(values, result["pairs"], strict=True)
        ]
        rows.append([each.title, *cells, each.target])
    return markdown_table(["", *map(_name, result["pairs"]), "target"], rows)


def speed_table(result: Result) -> str:
    """Return every contestant's images per second with the milliseconds of a step, as Markdown."""
    rows = []
    for key, title in result["titles"].items():
        cells = []
        for pair in result["pairs"]:
            seconds = pair["contestants"].get(key, {}).get("seconds")
            step = None if seconds is None else median(seconds)
            cells.append("–" if step is None else _speed(pair["batch_size"], step))
        rows.append([title, *cells])
    return markdown_table(["", *map(_name, result["pairs"])], rows)


def _speed(batch_size: int, seconds: float) -> str:
    return f"{batch_size / seconds:.0f} ({1e3 * seconds:.{0 if seconds >= 0.1 else 1}f} ms)"


def memory_table(result: Result) -> str:
    """Return every contestant's peak memory in MiB, host (and device), as Markdown."""
    rows = []
    for key, title in result["titles"].items():
        cells = []
        for pair in result["pairs"]:
            memory = pair["contestants"].get(key, {}).get("memory", {})
            host, device = (memory.get(place) for place in ("host", "device"))
            cell = "–" if host is None else f"{host / 2**20:.0f}"
            cells.append(cell if device is None else f"{cell} ({device / 2**20:.0f})")
        rows.append([title, *cells])
    return markdown_table(["", *map(_name, result["pairs"])], rows)


def split_table(result: Result, pair: Pair) -> str:
    """Return the milliseconds of a step by phase, as Markdown."""
    rows = []
    for key, title in result["titles"].items():
        if key in pair["contestants"]:
            phases = split(pair["contestants"][key]["split"])
            rows.append([title, *(f"{1e3 * phases[name]:.2f}" if phases[name] else "" for name in PHASES)])
    return markdown_table(["", *PHASES], rows)


def split(seconds: dict[str, float]) -> dict[str, float]:
    """Return the seconds of a step by the phases that are shown."""
    return {name: sum(seconds.get(part, 0.0) for part in parts) for name, parts in PHASES.items()}


def readme(folder: Path) -> str:
    """Return the text of `README.md`: the tables of all results in a folder."""
    text = [
        "# Speed of training",
        "",
        "Written by `python benchmarks/throughput.py`, which says how it measures. Ratios are medians over",
        "the rounds of one run, in which all contestants took turns. Teachers have random weights.",
    ]
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if result.get("kind") != "throughput":
            continue
        text += ["", f"## {path.stem}", "", setting(result)]
        text += ["", f"![Images per second and time of a step, {path.stem}]({path.stem}.png)"]
        text += ["", "Ratios of speed:", "", ratio_table(result)]
        text += ["", "Images per second (time of a step):", "", speed_table(result)]
        text += ["", "Peak memory in MiB, worker processes included:", "", memory_table(result)]
        for pair in result["pairs"]:
            text += ["", f"Milliseconds of a step, {_name(pair)}:", "", split_table(result, pair)]
    return "\n".join(text) + "\n"


def setting(result: Result) -> str:
    """Return what the reader of a number needs to know, as Markdown."""
    pairs = "; ".join(
        f"{_name(pair)}: {pair['title']}, batch {pair['batch_size']}" for pair in result["pairs"]
    )
    return (
        f"{in_words(result['machine'])} {result['workers']} worker processes; the limits and cmkd in "
        f"{result['precision']}, the others in fp32; {result['date']}. {pairs}."
    )


def fill_document() -> None:
    """Copy the tables of `cpu.json` into `docs/training.md`, between the markers that name them."""
    DOCUMENT.write_text(filled(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")


def filled(text: str) -> str:
    """Return the document with the tables as the committed results give them."""
    if not (RESULTS / "cpu.json").exists():
        return text
    result = json.loads((RESULTS / "cpu.json").read_text(encoding="utf-8"))
    tables = {
        "throughput-ratios": ratio_table(result),
        "throughput-speed": speed_table(result),
        "throughput-setting": setting(result),
    }
    for name, made in tables.items():
        between = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text = re.sub(
            between, lambda found, made=made: f"{found[1]}\n{made}\n\n{found[2]}", text, flags=re.DOTALL
        )
    return text


def _asked(each: Ratio, pair: Pair) -> bool:
    return not each.target or each.pairs is None or pair["name"] in each.pairs


def _name(pair: Pair) -> str:
    networks = (pair[key].partition(":")[2] or pair[key] for key in ("teacher", "student"))
    return " to ".join(networks)

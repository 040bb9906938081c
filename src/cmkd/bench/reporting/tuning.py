"""How the methods of a grid were tuned: in words, and what each trial reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cmkd.bench.reporting.results import Grid
from cmkd.report.records import count
from cmkd.report.setting import shown
from cmkd.report.table import ABSENT

#: What the cells of `trial_rows` say.
TRIALS = "What each trial had of its own, and its accuracy on the validation part in percent."


def tuning(grid: Grid) -> str:
    """Return which methods were tuned, on what, by how many trials, and what was chosen."""
    planned: dict[str, set[int]] = {}
    for trial in grid.trials:
        planned.setdefault(trial["method"], set()).add(trial["trial"])
    if not planned:
        return "None: every method has the options of the grid's file, or else its defaults."
    first = grid.trials[0]
    seeds = sorted({trial["seed"] for trial in grid.trials})
    told = [
        f"on the validation part alone, {first['teacher']} → {first['student']}, "
        f"seed{'' if len(seeds) == 1 else 's'} {shown(seeds)}, accuracy of the last epoch"
    ]
    if own := (grid.tuned or {}).get("options"):
        told.append(f"trials alone had {_flat(own)}")
    decided = (grid.tuned or {}).get("methods", {})
    told += [_method(method, len(numbers), decided.get(method)) for method, numbers in planned.items()]
    if untuned := [method for method in grid.methods if method not in planned]:
        told.append(f"no trials: {', '.join(untuned)}")
    if len({len(numbers) for numbers in planned.values()}) > 1:
        told.append("the methods had different numbers of trials, which favours those with more")
    return "; ".join(told)


def _method(method: str, trials: int, decided: Mapping[str, Any] | None) -> str:
    if decided is None:
        return f"{method}: {count(trials, 'trial')}, not all finished"
    return f"{method}: {count(trials, 'trial')}, chosen {_flat(decided['options'])}"


def trial_rows(grid: Grid) -> list[dict[str, str]]:
    """Return a row per method that was tuned, heading -> text: its trials, each with what it reached.

    The methods of which not all trials have finished are not among them.
    """
    decided = (grid.tuned or {}).get("methods", {})
    tuned = {method: decided[method] for method in grid.methods if method in decided}
    most = max((len(each["trials"]) for each in tuned.values()), default=0)
    rows = []
    for method, each in tuned.items():
        told = [_trial(trial, chosen=trial["trial"] == each["chosen"]) for trial in each["trials"]]
        told += [ABSENT] * (most - len(told))
        rows.append({"method": method} | {f"trial {number}": text for number, text in enumerate(told, 1)})
    return rows


def _trial(trial: Mapping[str, Any], *, chosen: bool) -> str:
    return f"{_flat(trial['options'])}: {100 * trial['accuracy']:.2f}{' (chosen)' if chosen else ''}"


def _flat(options: Mapping[str, Any]) -> str:
    """Return options in a few words: those of the loss by their own names."""
    flat = {**options.get("loss", {}), **{key: value for key, value in options.items() if key != "loss"}}
    return " ".join(f"{key} {shown(value)}" for key, value in flat.items()) or "its options as they are"

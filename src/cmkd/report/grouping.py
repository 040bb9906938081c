"""Which runs are seeds of the same thing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmkd.errors import InputError

if TYPE_CHECKING:
    from cmkd.training import RunFolder


def group_runs(runs: Iterable[str | os.PathLike[str]]) -> dict[str, list[RunFolder]]:
    """Put runs together that differ in nothing but the seed, under the name of their method.

    Runs of the same method with different options, or with different teachers, are never pooled: their
    names say in which options they differ, as in `CMKD (alpha 8.0)`.

    Args:
        runs: Run folders.

    Returns:
        Method -> its runs, in the order given.

    Raises:
        InputError: A folder is no run, or two runs of a group have the same seed.
    """
    from cmkd.training import RunFolder  # brings Accelerate and timm along

    options: list[dict[str, Any]] = []
    groups: list[list[RunFolder]] = []
    for path in dict.fromkeys(Path(run).resolve() for run in runs):
        folder = RunFolder(path)
        own = _options(folder)
        if own in options:
            groups[options.index(own)].append(folder)
        else:
            options.append(own)
            groups.append([folder])
    for group in groups:
        _refuse_repeated_seeds(group)
    return {_label(own, options): group for own, group in zip(options, groups, strict=True)}


def _options(folder: RunFolder) -> dict[str, Any]:
    """Return what makes a run a run of its group; options of the loss as `loss.NAME`."""
    from cmkd.training.config import EXECUTION_OPTIONS

    config = folder.read_config()
    loss = config.pop("loss", {"name": "labels"})
    config |= {f"loss.{key}": value for key, value in loss.items()}
    for added in config.pop("with", []):
        config["loss.name"] += f" + {added['name']}"
        config |= {f"{added['name']}.{key}": value for key, value in added.items() if key != "name"}
    if (folder.path / "teacher.json").exists():  # the same weights may lie in two places
        config["teacher"] = folder.read_json("teacher.json")["sha256"][:12]
    left_out = EXECUTION_OPTIONS | {"seed"}
    # An option that is not set says as much as one that did not exist when the run was made.
    return {key: value for key, value in config.items() if key not in left_out and value is not None}


def _refuse_repeated_seeds(group: list[RunFolder]) -> None:
    seeds: dict[int, RunFolder] = {}
    for folder in group:
        seed = folder.read_config()["seed"]
        if seed in seeds:
            raise InputError(
                f"{seeds[seed].path} and {folder.path} are the same run with the same seed {seed}; a "
                "repetition is no second measurement: leave one of them out."
            )
        seeds[seed] = folder


def _label(own: dict[str, Any], all_options: list[dict[str, Any]]) -> str:
    name = str(own["loss.name"])
    rivals = [options for options in all_options if options["loss.name"] == name]
    keys = dict.fromkeys(key for options in rivals for key in options)
    differing = [key for key in keys if any(options.get(key) != own.get(key) for options in rivals)]
    said = ", ".join(f"{key.removeprefix('loss.')} {own.get(key)}" for key in differing)
    return f"{name} ({said})" if said else name

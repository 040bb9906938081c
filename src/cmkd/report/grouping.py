"""Which runs are seeds of the same thing."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmkd.errors import InputError
from cmkd.files import read_json
from cmkd.report.setting import shown

if TYPE_CHECKING:
    from cmkd.training import RunFolder


def group_runs(runs: Iterable[str | os.PathLike[str]]) -> dict[str, list[RunFolder]]:
    """Put runs together that differ in nothing but the seed, under the name of their method.

    Cells of a grid have the method's name there, others that of their loss. Runs of the same method with
    different options, or with different teachers, are never pooled: their names say in which options they
    differ, as in `CMKD (alpha 8.0)` or `CMKD (teacher resnet20)`.

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
    paths = list(dict.fromkeys(Path(run).resolve() for run in runs))
    in_grids = _names_in_grids(paths)
    networks: dict[str, str] = {}
    for path in paths:
        folder = RunFolder(path)
        own = method_options(folder.read_config())
        if (path / "teacher.json").exists():
            teacher = folder.read_json("teacher.json")
            own["teacher"] = teacher["sha256"]  # the same weights may lie in two places
            networks[teacher["sha256"]] = teacher["network"]
        if path in in_grids:
            own["loss.name"] = in_grids[path]
        if own in options:
            groups[options.index(own)].append(folder)
        else:
            options.append(own)
            groups.append([folder])
    for group in groups:
        _refuse_repeated_seeds(group)
    names = distinct_names(networks)
    for own in options:
        if str(own.get("teacher")) in names:
            own["teacher"] = names[own["teacher"]]
    return dict(zip(labels(options), groups, strict=True))


def distinct_names(networks: Mapping[str, str]) -> dict[str, str]:
    """Return what teachers are called.

    Args:
        networks: Hash of the weights -> name of the network.

    Returns:
        Hash -> the network; where several have the same one, with the first digits of the hash.
    """
    counted = Counter(networks.values())
    return {
        sha256: network if counted[network] == 1 else f"{network} {sha256[:6]}"
        for sha256, network in networks.items()
    }


def _names_in_grids(runs: Iterable[Path]) -> dict[Path, str]:
    """Return the methods' names of runs that are cells of a grid: GRID/cells/PAIR/METHOD/SEED."""
    found: dict[Path, str] = {}
    for grid in {grid for run in runs for grid in run.parents[3:4]}:
        # A file of that name may be somebody else's.
        with contextlib.suppress(InputError, TypeError, KeyError):
            cells = (read_json(grid / "grid.json") or {}).get("cells", [])
            found |= {grid / cell["folder"]: cell["method"] for cell in cells}
    return found


def method_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that say what a run is but for its seed; those of the loss as `loss.NAME`."""
    from cmkd.training.config import EXECUTION_OPTIONS

    left_out = EXECUTION_OPTIONS | {"seed", "loss", "with"}
    own = {key: value for key, value in config.items() if key not in left_out}
    own |= {f"loss.{key}": value for key, value in (config.get("loss") or {"name": "labels"}).items()}
    for added in config.get("with") or []:
        own["loss.name"] += f" + {added['name']}"
        own |= {f"{added['name']}.{key}": value for key, value in added.items() if key != "name"}
    # An option that is not set says as much as one that did not exist when the run was made.
    return {key: value for key, value in own.items() if value is not None}


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


def labels(options: Sequence[dict[str, Any]]) -> list[str]:
    """Name sets of options by their loss, and by the options in which others of that loss differ.

    Args:
        options: What `method_options` returns, each once.

    Returns:
        As many different names; a number tells apart what would read alike, as two folders of which only the
        ends are shown.
    """
    found: list[str] = []
    for own in options:
        name = label = _label(own, options)
        number = 1
        while label in found:
            number += 1
            label = f"{name} ({number})"
        found.append(label)
    return found


def _label(own: dict[str, Any], all_options: Sequence[dict[str, Any]]) -> str:
    name = str(own["loss.name"])
    rivals = [options for options in all_options if options["loss.name"] == name]
    keys = dict.fromkeys(key for options in rivals for key in options)
    differing = [key for key in keys if any(options.get(key) != own.get(key) for options in rivals)]
    said = ", ".join(f"{key.removeprefix('loss.')} {shown(own.get(key))}" for key in differing)
    return f"{name} ({said})" if said else name

"""Which runs are seeds of the same thing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmkd.training import RunFolder

#: Options in which the runs of one group may differ.
_FREE = ("seed", "data_root", "workers", "checkpoint_seconds")


def group_runs(runs: Iterable[str | os.PathLike[str]]) -> dict[str, list[RunFolder]]:
    """Put runs together that differ in nothing but the seed, under the name of their method.

    Runs of the same method with different options are never pooled: their names say in which options
    they differ, as in `CMKD (alpha 8)`.

    Args:
        runs: Run folders.

    Returns:
        Method -> its runs, in the order given.

    Raises:
        InputError: A folder is no run.
    """
    from cmkd.training import RunFolder  # brings Accelerate and timm along

    groups: dict[str, list[RunFolder]] = {}
    options: dict[str, dict[str, Any]] = {}
    for path in runs:
        folder = RunFolder(Path(path))
        config = {key: value for key, value in folder.read_config().items() if key not in _FREE}
        identity = json.dumps(config, sort_keys=True)
        groups.setdefault(identity, []).append(folder)
        options[identity] = _flat(config)
    return {_label(options[identity], list(options.values())): each for identity, each in groups.items()}


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    loss = config.get("loss", {"name": "labels"})
    return {**{key: value for key, value in config.items() if key != "loss"}, **loss}


def _label(own: dict[str, Any], all_options: list[dict[str, Any]]) -> str:
    rivals = [options for options in all_options if options["name"] == own["name"]]
    differing = [key for key in own if any(options.get(key) != own[key] for options in rivals)]
    said = ", ".join(f"{key} {own[key]}" for key in differing)
    return f"{own['name']} ({said})" if said else str(own["name"])

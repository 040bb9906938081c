"""The command that a run came from, told from its options."""

from __future__ import annotations

import inspect
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

from cmkd import losses
from cmkd.report.setting import shown
from cmkd.training.config import EXECUTION_OPTIONS, DistillConfig, TrainConfig

_WIDTH = 100


def command_of(config: Mapping[str, Any]) -> str:
    """Return the command line of a run, for a shell.

    Args:
        config: The run's options and its `verb`, as `RunFolder.read_config` returns them.

    Returns:
        The command with the options that differ from their defaults; those that say only where or how
        quickly something is done are left out. Of absolute paths only the end is there, behind `…`. A long
        command has a line for each option.

    Example:
        >>> command_of({"verb": "train", "data": "cifar100", "epochs": 30, "lr": 0.2, "seed": 0})
        'cmkd train --data cifar100 --lr 0.2'
    """
    words = ["cmkd " + config["verb"], *_options(config)]
    line = " ".join(words)
    return line if len(line) <= _WIDTH else " \\\n    ".join(words)


def _options(config: Mapping[str, Any]) -> Iterator[str]:
    kind = DistillConfig if config["verb"] == "distill" else TrainConfig
    for option in fields(kind):
        name = option.name
        if name in config and name not in (EXECUTION_OPTIONS - {"cache"}) | {"loss", "with_"}:
            value = config[name]
            if value != _default(option):
                repeated = name in ("teacher", "teacher_weights") and isinstance(value, list)
                for each in value if repeated else [value]:
                    yield _said(name, each)
    for option_name, methods in (("loss", [config.get("loss")]), ("with", config.get("with", []))):
        for method in filter(None, methods):
            yield _said(option_name, method["name"])
            for name, value in _changed(method).items():
                yield _said(f"{option_name}.{name}", value)


def _default(option: Field[Any]) -> Any:
    return option.default if option.default_factory is MISSING else option.default_factory()


def _changed(method: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a method that differ from its defaults; all of them if it is not at hand."""
    options = {name: value for name, value in method.items() if name != "name"}
    try:
        known = inspect.signature(losses.resolve(method["name"])).parameters
    except Exception:  # a user's own module may raise anything
        return options
    defaults = {name: each.default for name, each in known.items()}
    defaults.setdefault("weight", 1.0)  # what the command line adds to losses that have no such option
    return {name: value for name, value in options.items() if value != defaults.get(name, MISSING)}


def _said(option: str, value: Any) -> str:
    text = shown(value) if isinstance(value, str) else json.dumps(value)
    return f"--{option} {shlex.quote(text)}"

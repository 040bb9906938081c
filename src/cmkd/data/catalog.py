"""Data sets by name.

A new data set is one new module beside this one with a dictionary `DATASETS` (name -> function of the folder
where the data lies); it is found by scanning, there is no list to edit. A name that ends in a colon, as
`folder:`, takes the folder from what follows the colon.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cmkd import data
from cmkd.data.base import ImageData
from cmkd.errors import InputError, unknown_name

Opener = Callable[..., ImageData]


def available() -> dict[str, str]:
    """Return the data sets' names, each with a line that describes it."""
    lines = {name: (opener.__doc__ or "").partition("\n")[0] for name, opener in _openers().items()}
    return {f"{name}PATH" if name.endswith(":") else name: line for name, line in lines.items()}


def load(name: str, root: str | Path | None = None, *, image_size: int | None = None) -> ImageData:
    """Open a data set.

    Args:
        name: A name from `available()`.
        root: Folder where the data lies, or where a download goes; `data` in the current folder by default.
        image_size: Side of the images that the networks get, in pixels; the set's own by default.

    Returns:
        The data set.

    Raises:
        InputError: If the name is unknown, or the data is missing, damaged, or no classification problem.
    """
    if image_size is not None and image_size < 1:
        raise InputError(f"image_size is {image_size}; give a number of pixels.")
    openers = _openers()
    prefix, colon, path = name.partition(":")
    key = prefix + colon
    if key not in openers:
        raise unknown_name("data set", name, available())
    if colon:
        return openers[key](Path(path).expanduser(), image_size=image_size)
    opened = openers[key](None if root is None else Path(root).expanduser())
    return opened if image_size is None else replace(opened, image_size=image_size)


def _openers() -> dict[str, Opener]:
    found: dict[str, Opener] = {}
    for module in pkgutil.iter_modules(data.__path__, f"{data.__name__}."):
        found |= getattr(importlib.import_module(module.name), "DATASETS", {})
    return found

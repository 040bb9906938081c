"""Data sets by name.

A new data set is one new module beside this one with a dictionary `DATASETS` (name -> function of the folder
where the data lies); it is found by scanning, there is no list to edit. Under a name that ends in a colon, as
`folder:`, the function gets what follows the colon, and a `ReadOptions`.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

from cmkd import data
from cmkd.data.base import ImageData
from cmkd.data.stored import IMAGE_SIZE, BadImages, ReadOptions
from cmkd.errors import InputError, unknown_name
from cmkd.files import at_home

Opener = Callable[..., ImageData]


def available() -> dict[str, str]:
    """Return the data sets' names, each with a line that describes it."""
    return {
        f"{name}{_placeholder(opener)}" if name.endswith(":") else name: (opener.__doc__ or "").partition(
            "\n"
        )[0]
        for name, opener in _openers().items()
    }


def load(
    name: str,
    root: str | Path | None = None,
    *,
    image_size: int | None = None,
    bad_images: BadImages = "fail",
    image_column: str | None = None,
    label_column: str | None = None,
) -> ImageData:
    """Open a data set.

    Args:
        name: A name from `available()`.
        root: Folder where the data lies, or where a download goes; `data` in the current folder by default.
        image_size: Side of the images that the networks get, in pixels; the set's own by default.
        bad_images: What an image that cannot be decoded does: end the run (`fail`), or be replaced by another
            one of its class and reported (`skip`).
        image_column: Column that has the images, for `hf:NAME`; found by its type by default.
        label_column: Column that has the labels, for `hf:NAME`; found by its type by default.

    Returns:
        The data set.

    Raises:
        InputError: If the name is unknown, or the data is missing, damaged, or no classification problem.
    """
    if image_size is not None and image_size < 1:
        raise InputError(f"image_size is {image_size}; give a number of pixels.")
    if bad_images not in get_args(BadImages):
        raise InputError(f"bad_images is {bad_images!r}; give 'fail' or 'skip'.")
    openers = _openers()
    prefix, colon, where = name.partition(":")
    key = prefix + colon
    if key not in openers:
        raise unknown_name("data set", name, available())
    if (image_column or label_column) and key != "hf:":
        raise InputError(f"{name} has no columns; leave out the image and the label column, or take hf:NAME.")
    if colon:
        size = IMAGE_SIZE if image_size is None else image_size
        return openers[key](where, ReadOptions(size, bad_images, image_column, label_column))
    opened = openers[key](None if root is None else at_home(root))
    return opened if image_size is None else replace(opened, image_size=image_size)


def _placeholder(opener: Opener) -> str:
    return next(iter(inspect.signature(opener).parameters)).upper()


def _openers() -> dict[str, Opener]:
    found: dict[str, Opener] = {}
    for module in pkgutil.iter_modules(data.__path__, f"{data.__name__}."):
        found |= getattr(importlib.import_module(module.name), "DATASETS", {})
    return found

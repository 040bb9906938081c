"""The package's own networks by name.

A new family of networks is one new module beside this one with a dictionary `MODELS` (name -> function of the
number of classes); it is found by scanning, there is no list to edit. The module may also have a dictionary
`ALIASES` (other spelling in lower case -> name in `MODELS`) and, for networks of any depth or width, the
function `by_name` (spelling in lower case -> function of the number of classes, or None).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from types import ModuleType

from torch import nn

from cmkd import models

Factory = Callable[[int], nn.Module]


def available() -> list[str]:
    """Return the names of the package's own networks, smallest depth first within a family."""
    return list(_by_name())


def find(name: str) -> Factory | None:
    """Find one of the package's own networks.

    The names are those of RepDistiller and mdistiller. One in lower case is understood in any case, and with
    hyphens for underscores (`WRN-40-2`, `ResNet32x4`), and so is `wrn_DEPTH_WIDTH` for any depth and width.
    `ResNet18`, `ResNet34` and `ResNet50` have to be spelled like that: without their capitals they are the
    names of ImageNet's networks almost everywhere.

    Args:
        name: The name.

    Returns:
        A function from the number of classes to the network, or None if there is none of this name.

    Example:
        >>> find("WRN-16-2")(10).fc
        Linear(in_features=128, out_features=10, bias=True)
        >>> find("resnet18") is None
        True
    """
    known = _by_name()
    if name in known:
        return known[name]
    spelling = name.lower().replace("-", "_")
    if spelling in known:
        return known[spelling]
    for family in _families():
        aliases = getattr(family, "ALIASES", {})
        if spelling in aliases:
            return known[aliases[spelling]]
        found = family.by_name(spelling) if hasattr(family, "by_name") else None
        if found is not None:
            return found
    return None


def _families() -> list[ModuleType]:
    found = pkgutil.iter_modules(models.__path__, f"{models.__name__}.")
    return [importlib.import_module(module.name) for module in found]


def _by_name() -> dict[str, Factory]:
    found: dict[str, Factory] = {}
    for family in _families():
        found |= getattr(family, "MODELS", {})
    return found

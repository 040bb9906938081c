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
    spelling = own_name(name)
    if spelling is None:
        return None
    return _by_name().get(spelling) or _of_any_size(spelling)


def own_name(name: str) -> str | None:
    """Return the one spelling of a network that `find` understands in several; None for another network.

    Args:
        name: The name.

    Returns:
        The name as `available` has it, or in lower case with underscores for one that is not listed there.

    Example:
        >>> own_name("WRN-40-2"), own_name("ShuffleNetV1"), own_name("resnet18")
        ('wrn_40_2', 'ShuffleV1', None)
    """
    known = _by_name()
    spelling = name.lower().replace("-", "_")
    if name in known:
        return name
    if spelling in known:
        return spelling
    for family in _families():
        if spelling in getattr(family, "ALIASES", {}):
            return family.ALIASES[spelling]
    return spelling if _of_any_size(spelling) else None


def _of_any_size(spelling: str) -> Factory | None:
    made = (family.by_name(spelling) for family in _families() if hasattr(family, "by_name"))
    return next((factory for factory in made if factory is not None), None)


def _families() -> list[ModuleType]:
    found = pkgutil.iter_modules(models.__path__, f"{models.__name__}.")
    return [importlib.import_module(module.name) for module in found]


def _by_name() -> dict[str, Factory]:
    found: dict[str, Factory] = {}
    for family in _families():
        found |= getattr(family, "MODELS", {})
    return found

"""Losses by name: whatever module lies in these packages, or a dotted path to one's own class."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import TypeVar

from torch import nn

import cmkd.losses
from cmkd.errors import InputError, unknown_name
from cmkd.losses import features
from cmkd.losses.base import DistillationLoss
from cmkd.losses.features.base import FeatureLoss

_Kind = TypeVar("_Kind", bound=nn.Module)

_HINT = "One's own loss is given by its dotted path, package.module.Class."


def available() -> dict[str, type[DistillationLoss]]:
    """Return the losses on logits by short name, the class name without "Loss".

    There is no registry: a module put into `cmkd/losses` is found here by itself.

    Returns:
        Classes by name, in alphabetical order.

    Example:
        >>> {"CE", "CMKD", "KD"} <= set(available())
        True
    """
    return _scan(cmkd.losses, DistillationLoss)


def available_on_features() -> dict[str, type[FeatureLoss]]:
    """Return the losses on features and relations by short name, found in `cmkd/losses/features`.

    Returns:
        Classes by name, in alphabetical order.
    """
    return _scan(features, FeatureLoss)


def _scan(package: ModuleType, base: type[_Kind]) -> dict[str, type[_Kind]]:
    found = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for value in vars(module).values():
            is_loss = isinstance(value, type) and issubclass(value, base)
            if is_loss and value is not base and value.__module__ == module.__name__:
                found[value.__name__.removesuffix("Loss")] = value
    return dict(sorted(found.items()))


def resolve(name: str) -> type[nn.Module]:
    """Find the class of a loss.

    Args:
        name: A short name ("CMKD"), a class name ("CMKDLoss"), or the dotted path of any `nn.Module`
            ("my_package.my_module.MyLoss"). The module must be importable; the current directory is not
            added to the path.

    Returns:
        The class.

    Raises:
        InputError: Nothing of that name, with the nearest names; or it is no `nn.Module`; or the name is no
            text.

    Example:
        >>> resolve("KD").__name__, resolve("torch.nn.MSELoss").__name__
        ('KDLoss', 'MSELoss')
    """
    if not isinstance(name, str):
        raise InputError(f"a loss is named by text, such as 'CMKD', not by {name!r}.")
    module_name, _, class_name = name.rpartition(".")
    if not module_name:
        by_name: dict[str, type[nn.Module]] = {**available(), **available_on_features()}
        found = by_name.get(name.removesuffix("Loss"))
        if found is None:
            raise unknown_name("loss", name, by_name, hint=_HINT)
        return found
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A module that is there, but lacks something itself, keeps its own traceback.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise InputError(
            f"cannot import {module_name!r} for the loss {name!r}: no module named {error.name!r};"
            " install it, or put its folder on PYTHONPATH."
        ) from error
    except (TypeError, ValueError) as error:  # relative or empty names such as ".losses"
        raise InputError(f"{name!r} is not a dotted path. {_HINT}") from error
    classes = [
        key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, nn.Module)
    ]
    if class_name not in vars(module):
        raise unknown_name(f"loss in {module_name}", class_name, classes)
    if class_name not in classes:
        raise InputError(
            f"{name} is not a subclass of torch.nn.Module: write the loss as a module, see DistillationLoss."
        )
    return getattr(module, class_name)

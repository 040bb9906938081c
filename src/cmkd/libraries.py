"""Libraries of the optional extras, imported when they are used."""

from __future__ import annotations

import importlib
from typing import Any

from cmkd.errors import InputError


def require(name: str, extra: str) -> Any:
    """Return a module of an extra of cmkd.

    Raises:
        InputError: It is not installed; says the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        library = name.partition(".")[0]
        raise InputError(f'{library} is not installed; run: pip install "cmkd[{extra}]"') from error

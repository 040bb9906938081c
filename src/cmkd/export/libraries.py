"""Libraries that only an export needs, imported when they are used."""

from __future__ import annotations

import importlib
from typing import Any

from cmkd.errors import InputError


def require(name: str) -> Any:
    """Return a module of the extra `export`, or raise `InputError` with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        library = name.partition(".")[0]
        raise InputError(f'{library} is not installed; run: pip install "cmkd[export]"') from None

"""Names as parts of paths: short and readable, and never the same for two."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from cmkd.files import at_home

_PLAIN = re.compile(r"[A-Za-z0-9_+=][A-Za-z0-9._+=-]{0,63}")


def safe(name: str) -> str:
    """Return a name as a part of a path.

    A name of letters, digits and ``._+=-`` stays as it is. Of any other, what is not one of these becomes
    ``-``, and a hash of the whole follows, after a ``~``, which no plain name holds.

    Args:
        name: Any text.

    Returns:
        The part; two different names never have the same one.

    Example:
        >>> safe("resnet8x4"), safe("my_package.nets:small")
        ('resnet8x4', 'my_package.nets-small~caf2b58a')
    """
    if _PLAIN.fullmatch(name) and "--" not in name and not name.endswith((".", "-")):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9_+=]+', lambda found: '.' if found[0] == '.' else '-', name)[:48]}~{digest}"


def pair_name(teacher: str, student: str) -> str:
    """Return the name of a pair's folder; parts of names have no `--`, so that it can be cut in two again."""
    return f"{safe(teacher)}--{safe(student)}"


def shown(path: str | Path) -> str:
    """Return a path as seen from the current folder, if it lies in there: the same however it was spelled."""
    absolute = os.path.abspath(at_home(path))  # noqa: PTH100 - links stay as they are
    relative = os.path.relpath(absolute)
    return absolute if relative.startswith("..") else relative

"""Writing what the report makes."""

from __future__ import annotations

import os
from pathlib import Path

from cmkd.errors import InputError


def write_file(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all, and its folder if need be.

    Args:
        path: The file.
        content: Its content.

    Returns:
        The file.

    Raises:
        InputError: It cannot be written there.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {os.strerror(error.errno or 0)}; give another place, or mend the space or "
            "the permissions."
        ) from error
    return path

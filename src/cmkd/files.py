"""Writing a file whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from cmkd.errors import InputError


def write_atomic(path: Path, content: str | bytes) -> Path:
    """Replace a file so that a reader, and a machine that loses power, sees the old or the new content.

    Args:
        path: The file; its folder is made if need be.
        content: Text (written as UTF-8) or bytes.

    Returns:
        The file.

    Raises:
        InputError: It cannot be written there; what was there before is intact.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    # One fixed name: what a killed process leaves is overwritten by the next, not added to.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {os.strerror(error.errno or 0)}; give another place, or mend the space or "
            "the permissions."
        ) from error
    return path

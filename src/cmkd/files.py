"""Reading JSON, writing a file whole or not at all, and keeping others out of a folder."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cmkd.errors import InputError


def at_home(path: str | os.PathLike[str]) -> Path:
    """Return a path with `~` as the home folder.

    Unlike `Path.expanduser`, this takes `~name` of nobody for a folder's name, as shells do: that it does not
    exist is what every reader has an answer to.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111


def public_name(name: str) -> str:
    """Return a path, or a data set's name, of an absolute path only its end: homes are private.

    Example:
        >>> public_name("folder:/home/someone/photos/birds"), public_name("hf:user/birds")
        ('folder:…/photos/birds', 'hf:user/birds')
    """
    kind, colon, where = name.partition(":") if ":" in name else ("", "", name)
    if not Path(where).is_absolute() or where.startswith("//"):  # a URL
        return name
    return f"{kind}{colon}{Path('…', *Path(where).parts[-2:])}"


def read_json(file: Path) -> dict[str, Any] | None:
    """Return the content of a JSON file, which has to be an object; None if there is no such file.

    Raises:
        InputError: It cannot be read, is not JSON, or holds something else than an object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"cannot read {file}: {os.strerror(error.errno or 0)}.") from None
    except ValueError as error:  # no JSON, or no UTF-8
        raise InputError(
            f"{file} is not valid JSON ({error}); remove it, or put back what was there."
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{file} does not hold an object; remove it, or put back what was there.")
    return content


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


@contextlib.contextmanager
def held(folder: Path, remedy: str) -> Iterator[None]:
    """Keep other processes out of a folder, by an advisory lock that the system drops when this one dies.

    A record lock: unlike that of `flock`, worker processes do not inherit it and outlive a kill with it.

    Args:
        folder: The folder, which exists; the lock is its file `.lock`.
        remedy: What to do while another process holds it, the end of a sentence.

    Raises:
        InputError: Another process holds it.
        OSError: The lock cannot be made there, as in a folder of others or on a file system without locks.
    """
    try:
        import fcntl
    except ImportError:  # not on this platform: nobody is kept out
        yield
        return
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # which of the two depends on the system
            raise InputError(f"{folder} is in use by another process; {remedy}") from None
        yield

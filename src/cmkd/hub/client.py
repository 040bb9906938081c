"""Names of repositories on the Hugging Face hub; what its client raises, as errors to act on."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from cmkd.errors import InputError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_repository(name: str) -> bool:
    """Whether a name has the form of a repository's: `user/name`."""
    return _REPOSITORY.fullmatch(name) is not None


@contextlib.contextmanager
def told(what: str, remedy: str) -> Iterator[None]:
    """Say what the client was at when it failed: what it raises is of many types, and of its version's.

    Args:
        what: What was tried, as in `cannot ...`.
        remedy: What to do, a sentence.

    Raises:
        InputError: It failed.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        line = next(iter(str(error).strip().splitlines()), "")
        raise InputError(f"cannot {what}: {type(error).__name__}: {line.rstrip('.')}. {remedy}") from error

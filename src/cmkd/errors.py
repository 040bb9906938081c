"""Errors that a user can act on.

Whatever a user typed or handed over wrongly raises `InputError`: its message names the offending value
and the remedy. The command line prints that message alone and exits with status 2; every other exception
is a defect of this library and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A value from outside (argument, file, tensor) cannot be used as it is.

    Attributes:
        told_elsewhere: Whether another process of the run shows the same message.
    """

    told_elsewhere = False


class ProcessLost(InputError):
    """Another process of the run died or cannot be reached; the same command goes on."""


class Interrupted(Exception):
    """A run was asked to stop (SIGINT, SIGTERM) and has saved its state; the same call goes on."""


def unknown_name(kind: str, name: str, known: Iterable[str], *, hint: str = "") -> InputError:
    """Return the error for a name that is not known, with the nearest known names.

    Args:
        kind: What is being named, for example `"model"`.
        name: The name that was given.
        known: All valid names.
        hint: A further sentence, for example which other forms are accepted.

    Returns:
        The error, to be raised by the caller.
    """
    known = sorted(known)
    lowered = {candidate.lower(): candidate for candidate in known}
    near = [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)]
    listed = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(known)}."
    return InputError(f"unknown {kind} {name!r}; {listed}{' ' + hint if hint else ''}")

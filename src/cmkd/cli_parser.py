"""The parser of the command line: what it says to what it cannot take."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from cmkd.errors import InputError

_UNION = re.compile(
    r"Does not validate against any of the Union subtypes\s+Subtypes: \[(?P<kinds>.*?)\]\s+Errors:.*"
    r"Given value: (?P<value>.*)",
    flags=re.DOTALL,
)


def _union_in_words(found: re.Match[str]) -> str:
    """Say in one line what the message for several possible types says in many."""
    kinds = found["kinds"].replace("NoneType", "null")
    hint = "; write [layer2, layer3], and '2' if a name is a number" if "list[str]" in kinds else ""
    return f"Expected one of {kinds}. Got value: {found['value']}{hint}"


class Parser(ArgumentParser):
    """A parser that raises `InputError` with the nearest option instead of printing its usage.

    Args:
        help_option: Option that shows the help.
        args: As for `ArgumentParser`.
        kwargs: As for `ArgumentParser`.
    """

    #: Parser of the verb at work; argparse reports unknown options to the outermost parser only.
    current: Parser | None = None

    def __init__(self, *args: Any, help_option: str = "--help", **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)
        self.help_option = help_option

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise `InputError` with the message in this program's words, and where the help is."""
        parser = getattr(ex, "subcommand_parser", None) or self
        if message.startswith("unrecognized arguments:"):
            parser = self.current or parser
            raise InputError(parser.unknown_options(message.partition(":")[2].split()))
        message = re.sub(r'Parser key "(?:loss\.init_args\.)?([\w.]+)":\s*', r"--\1: ", message)
        message = re.sub(r"<class '([\w.]+)'>", r"\1", message)
        message = _UNION.sub(_union_in_words, message)
        message = re.sub(r"the following arguments are required: \w+\.(\w+)", r"--\1 is required", message)
        raise InputError(f"{' '.join(message.split())} (see {parser.where_help_is})")

    @property
    def where_help_is(self) -> str:
        """The command that shows the help."""
        return f"`{self.prog.replace(' [options]', '')} {self.help_option}`"

    def unknown_options(self, arguments: Sequence[str]) -> str:
        """Return the message for options that do not exist."""
        given = [argument.partition("=")[0] for argument in arguments if argument.startswith("-")]
        if not given:
            return f"unexpected argument {arguments[0]!r} (see {self.where_help_is})"
        known = [option for action in self._actions for option in action.option_strings]
        near = difflib.get_close_matches(given[0], known, n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else f"see {self.where_help_is}."
        return f"unknown option {given[0]}; {hint}"

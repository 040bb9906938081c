"""Methods that are added to another one: `--with NAME --with.OPTION VALUE`, as often as needed."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from typing import Any

from cmkd import losses
from cmkd.cli_parser import Parser
from cmkd.errors import InputError
from cmkd.training.config import require_names


def added_apart(argv: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Take the arguments of `--with` out of a command line.

    Args:
        argv: The command line, from the verb on.

    Returns:
        What is left of it; and for each method its name, followed by its options as `--with.OPTION` and
        value in turn.

    Raises:
        InputError: A value or the name of the method is missing, or the verb adds no methods.
    """
    rest: list[str] = []
    groups: list[list[str]] = []
    arguments = iter(argv)
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if option != "--with" and not option.startswith("--with."):
            rest.append(argument)
            continue
        if option != "--with" and not groups:
            raise InputError(f"{option} is given before any --with; name the method first: --with ReviewKD.")
        if option == "--with.help":
            groups[-1].append(option)
            continue
        if not equals:
            value = next(arguments, "")
        if not value or (not equals and value.startswith("--")):
            followed = f"; {value} follows, which is another option" if value else ""
            wanted = "name a method: --with ReviewKD." if option == "--with" else "see `cmkd distill --help`."
            raise InputError(f"{option} is given without a value{followed}; {wanted}")
        if option == "--with":
            groups.append([value])
        else:
            groups[-1] += [option, value]
    if groups and argv[:1] != ["distill"]:
        raise InputError(f"--with {groups[0][0]} belongs to `cmkd distill`.")
    return rest, groups


def added_from_arguments(name: str, *options: str) -> dict[str, Any]:
    """Return the specification of a method from its options on the command line.

    Args:
        name: The method.
        options: `--with.OPTION` and value in turn; `--with.help` shows the options and exits.

    Raises:
        InputError: There is no such method or option, or a value of the wrong type.
    """
    parser, known = _parser(name)
    try:
        return {"name": name, **parser.parse_args(list(options))["with"].as_dict()}
    except InputError as error:
        listed = ", ".join(f"--with.{option}" for option in known)
        raise InputError(f"--with {name}: {error} Its options: {listed}.") from error


def added_from_file(specs: Any) -> list[dict[str, Any]]:
    """Return the specifications of methods that stand under `with:` in a file, with the types looked at.

    Args:
        specs: What the file has there.

    Raises:
        InputError: It is no list of methods with their options, or a value is of the wrong type.
    """
    require_names({"name": "CMKD"}, specs)
    return [checked_method(spec, "under `with`") for spec in specs]


def checked_method(spec: Any, where: str) -> dict[str, Any]:
    """Return the specification of a method in a file with the types looked at.

    Args:
        spec: Its name and its options.
        where: Where it stands, for messages.

    Raises:
        InputError: It has no name, there is no such method or option, or a value is of the wrong type.
    """
    require_names(spec, [])
    spec = dict(spec)
    name = spec.pop("name")
    parser, known = _parser(name)
    for option in spec:
        if option not in known:
            near = difflib.get_close_matches(str(option), known, n=3, cutoff=0.6)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}."
            raise InputError(f"{name} {where} has no option {option!r}; {hint}")
    try:
        return {"name": name, **parser.parse_object({"with": spec})["with"].as_dict()}
    except InputError as error:
        raise InputError(f"{name} {where}, given {spec}: {error}") from error


def _parser(name: str) -> tuple[Parser, list[str]]:
    """Return the parser of a method's options, and their names."""
    parser = Parser(prog=f"cmkd distill --with {name}", add_help=False, help_option="--with.help")
    kind = loss_class(name)
    parser.add_class_arguments(kind, "with", as_group=False, skip={"reduction"})
    if "weight" not in inspect.signature(kind).parameters:
        parser.add_argument("--with.weight", type=float, default=1.0, help="Factor of the method.")
    parser.add_argument("--with.help", action="help", help="Show the options of the method and exit.")
    parser.current = parser
    known = dict.fromkeys([*inspect.signature(kind).parameters, "weight"])
    known.pop("reduction", None)
    return parser, list(known)


def loss_class(name: str) -> type:
    """Return the class of a loss; what a user's own module raises while it is imported is named."""
    try:
        return losses.resolve(name)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"cannot import the loss {name!r}: {type(error).__name__}: {error}") from error

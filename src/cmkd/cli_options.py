"""The command line's options, made from the typed functions and classes that they end up in."""

from __future__ import annotations

import difflib
import inspect
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml
from jsonargparse import ArgumentParser

from cmkd import __version__, losses
from cmkd.errors import InputError
from cmkd.training.cache_config import CacheConfig
from cmkd.training.config import DistillConfig, TrainConfig

DEFAULT_LOSS = "CMKD"


@dataclass(kw_only=True)
class DemoOptions:
    """Distil a teacher on the embedded images by three methods, and show what came out.

    Args:
        out: Folder for the runs, the table and `report.html`.
        epochs: Epochs of every student.
        seeds: Seeds per method.
    """

    out: str = "cmkd-demo"
    epochs: int = 3
    seeds: int = 1


@dataclass(kw_only=True)
class EvaluateOptions:
    """Measure the network of a finished run.

    Args:
        run: Run folder.
        part: Part of the data: the test set, or the validation part that the run held out.
        data_root: Folder with the data set's files, if it is not where the run found it.
        cpu: Stay on the CPU even if there is an accelerator.
    """

    run: str
    part: Literal["test", "validation"] = "test"
    data_root: str | None = None
    cpu: bool = False


@dataclass(kw_only=True)
class ReportOptions:
    """Compare runs: a table, and one HTML page with the figures.

    Args:
        runs: Run folders; those that differ in nothing but the seed are pooled.
        out: The page to write.
        title: Its title.
    """

    runs: list[str]
    out: str = "report.html"
    title: str = "Comparison of runs"


class _Parser(ArgumentParser):
    """A parser that raises `InputError` with the nearest option instead of printing its usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        parser = getattr(ex, "subcommand_parser", None) or self
        if message.startswith("unrecognized arguments:"):
            parser = self.current or parser
            raise InputError(parser.unknown_options(message.partition(":")[2].split()))
        message = re.sub(r'Parser key "(?:loss\.init_args\.)?([\w.]+)":\s*', r"--\1: ", message)
        message = re.sub(r"<class '([\w.]+)'>", r"\1", message)
        message = re.sub(r"the following arguments are required: \w+\.(\w+)", r"--\1 is required", message)
        program = parser.prog.replace(" [options]", "")
        raise InputError(f"{' '.join(message.split())} (see `{program} --help`)")

    #: Parser of the verb at work; argparse reports unknown options to the outermost parser only.
    current: _Parser | None = None

    def unknown_options(self, arguments: Sequence[str]) -> str:
        """Return the message for options that do not exist."""
        given = [argument.partition("=")[0] for argument in arguments if argument.startswith("-")]
        if not given:
            return f"unexpected argument {arguments[0]!r} (see `{self.prog} --help`)"
        known = [option for action in self._actions for option in action.option_strings]
        near = difflib.get_close_matches(given[0], known, n=3, cutoff=0.6)
        hint = (
            f"did you mean {' or '.join(near)}?"
            if near
            else f"see `{self.prog.replace(' [options]', '')} --help`."
        )
        return f"unknown option {given[0]}; {hint}"


def parse(argv: Sequence[str]) -> tuple[str, Any]:
    """Parse the command line.

    Args:
        argv: Arguments after the program's name.

    Returns:
        The verb and its options: a configuration object, or a plain value for `list`.

    Raises:
        InputError: The arguments or the configuration file cannot be used.
    """
    argv, added = _added_apart(_repeated_as_list(_spelled_as_declared(argv)))
    loss = _loss_name(argv)
    parser = _Parser(
        prog="cmkd",
        version=__version__,
        description="Knowledge distillation that keeps the teacher's values and its ranking of the classes.",
    )
    verbs = parser.add_subcommands(dest="verb", metavar="VERB", required=True)
    configured = {"train": TrainConfig, "distill": DistillConfig, "demo": DemoOptions}
    parsers: dict[str, _Parser] = {}
    for verb, options in configured.items():
        parsers[verb] = each = _Parser(description=_summary(options))
        each.add_argument("--config", action="config", help="YAML file with any of these options.")
        each.add_class_arguments(options, skip={"loss", "with_"}, as_group=False)
    parsers["distill"].add_argument(
        "--loss.name",
        default=loss,
        help=f"Distillation method, as in `--loss {loss}`: one of {', '.join(_losses())}, or the "
        "dotted path of a class. The help shows the options of the method that is named before it.",
    )
    parsers["distill"].add_argument(
        "--with",
        type=list[dict[str, Any]],
        default=[],
        help="More methods, added to that one: `--with ReviewKD --with.weight 1.0`, as often as needed; in "
        "YAML a list such as `[{name: ReviewKD, weight: 1.0}]`.",
    )
    if argv[:1] == ["distill"]:
        # training needs the mean: a reduction is for one's own loop
        parsers["distill"].add_class_arguments(_loss_class(loss), "loss", as_group=False, skip={"reduction"})
    parsers["cache"] = cache = _Parser(description=_summary(CacheConfig))
    cache.add_argument("path", help="Folder of the cache.")
    cache.add_argument("--config", action="config", help="YAML file with any of these options.")
    cache.add_argument(
        "--verify",
        action="store_true",
        help="Compare the checksums of all files of the cache, and write nothing.",
    )
    cache.add_class_arguments(CacheConfig, skip={"path", "verify"}, as_group=False)
    parsers["evaluate"] = evaluate = _Parser(description=_summary(EvaluateOptions))
    evaluate.add_argument("run", help="Run folder.")
    evaluate.add_class_arguments(EvaluateOptions, skip={"run"}, as_group=False)
    parsers["report"] = report = _Parser(description=_summary(ReportOptions))
    report.add_argument(
        "runs", nargs="+", help="Run folders; those that differ in nothing but the seed are pooled."
    )
    report.add_class_arguments(ReportOptions, skip={"runs"}, as_group=False)
    parsers["list"] = listing = _Parser(description="List what can be named.")
    listing.add_argument("kind", type=Literal["models", "losses", "datasets"], help="What to list.")
    for verb in ("demo", "train", "distill", "cache", "evaluate", "report", "list"):
        verbs.add_subcommand(verb, parsers[verb], help=parsers[verb].description)

    parser.current = parsers.get(argv[0]) if argv else None
    namespace = parser.parse_args(list(argv))
    verb = namespace["verb"]
    options = namespace[verb].as_dict()
    options.pop("config", None)
    if verb == "distill":
        options["with_"] = [_added(each) for each in added] or options.pop("with")
    if verb == "list":
        return verb, options["kind"]
    kind = {**configured, "cache": CacheConfig, "evaluate": EvaluateOptions, "report": ReportOptions}[verb]
    return verb, kind(**{field.name: options[field.name] for field in fields(kind) if field.name in options})


def _summary(documented: type) -> str:
    return (documented.__doc__ or "").partition("\n")[0]


def _spelled_as_declared(argv: Sequence[str]) -> list[str]:
    """Accept `--batch-size` for `--batch_size`, and turn `--loss NAME` into `--loss.name NAME`."""
    spelled = []
    for argument in argv:
        if argument.startswith("--") and len(argument) > 2:
            option, equals, value = argument.partition("=")
            option = "--" + option[2:].replace("-", "_")
            argument = ("--loss.name" if option == "--loss" else option) + equals + value
        spelled.append(argument)
    return spelled


def _repeated_as_list(argv: Sequence[str]) -> list[str]:
    """Turn `--teacher A --teacher B` into `--teacher ["A", "B"]`, and the like for what goes with it."""
    argv = list(argv)
    for option in ("--teacher", "--teacher_weights"):
        values, rest = [], []
        arguments = iter(argv)
        for argument in arguments:
            name, equals, value = argument.partition("=")
            if name == option:
                values.append(value if equals else next(arguments, ""))
            else:
                rest.append(argument)
        if len(values) > 1:
            argv = [*rest, option, json.dumps(values)]
    return argv


def _added_apart(argv: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Take the arguments of `--with` out; each of its groups begins with the name of a method."""
    rest: list[str] = []
    groups: list[list[str]] = []
    arguments = iter(argv)
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if option != "--with" and not option.startswith("--with."):
            rest.append(argument)
            continue
        if not equals:
            following = next(arguments, None)
            if following is None:
                raise InputError(f"{option} is given without a value; see `cmkd distill --help`.")
            value = following
        if option == "--with":
            groups.append([value])
        elif not groups:
            raise InputError(f"{option} is given before any --with; name the method first: --with ReviewKD.")
        else:
            groups[-1] += [f"--{option.removeprefix('--with.')}", value]
    if groups and argv[:1] != ["distill"]:
        raise InputError(f"--with {groups[0][0]} belongs to `cmkd distill`.")
    return rest, groups


def _added(group: list[str]) -> dict[str, Any]:
    """Return the specification of a method from its name and its options on the command line."""
    name, *options = group
    parser = _Parser(prog=f"cmkd distill --loss {name}")  # whose help shows the options
    kind = _loss_class(name)
    parser.add_class_arguments(kind, as_group=False, skip={"reduction"})
    if "weight" not in inspect.signature(kind).parameters:
        parser.add_argument("--weight", type=float, default=1.0)
    parser.current = parser
    try:
        return {"name": name, **parser.parse_args(options).as_dict()}
    except InputError as error:
        known = dict.fromkeys([*inspect.signature(kind).parameters, "weight"])
        known.pop("reduction", None)
        listed = ", ".join(f"--with.{option}" for option in known)
        raise InputError(f"--with {name}: {error} Its options: {listed}.") from error


def _losses() -> list[str]:
    return sorted([*losses.available(), *losses.available_on_features()])


def _loss_name(argv: Sequence[str]) -> str:
    """Return the loss that is asked for: its class decides which options exist."""
    name = DEFAULT_LOSS
    for position, argument in enumerate(argv):
        option, equals, value = argument.partition("=")
        value = value if equals else next(iter(argv[position + 1 :]), "")
        if option == "--config" and argv[0] == "distill" and Path(value).is_file():
            name = _loss_in_file(Path(value)) or name
        elif option == "--loss.name" and value and not value.startswith("--"):
            name = value
    return name


def _loss_class(name: str) -> type:
    """Return the class of a loss; what a user's own module raises while it is imported is named."""
    try:
        return losses.resolve(name)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"cannot import the loss {name!r}: {type(error).__name__}: {error}") from error


def _loss_in_file(file: Path) -> str | None:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--config {file} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"--config {file} does not hold options; it should read like `epochs: 30`.")
    loss = content.get("loss")
    if isinstance(loss, str):
        raise InputError(f"--config {file} has `loss: {loss}`; write `loss: {{name: {loss}}}`.")
    return loss.get("name") if isinstance(loss, dict) else None

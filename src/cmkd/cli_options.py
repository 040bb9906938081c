"""The command line's options, made from the typed functions and classes that they end up in."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import yaml

from cmkd import __version__, losses
from cmkd.bench.config import BenchConfig
from cmkd.cli_added import added_apart, added_from_arguments, added_from_file, loss_class
from cmkd.cli_parser import Parser
from cmkd.errors import InputError
from cmkd.export.config import ExportConfig, PredictConfig
from cmkd.hub.config import CardConfig, PushConfig
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
    """Measure the network of a finished run: accuracy, fidelity, calibration, robustness, cost.

    Args:
        run: Run folder.
        part: Part of the data: the test set, or the validation part that the run held out; by default the
            test set, but the validation part of a run with `--test never`.
        corruptions: Corruptions to measure under as well: `true` for all 15; or names and groups (`noise`,
            `blur`, `weather`, `digital`) with commas between them. None by default.
        severities: Their severities, such as `1..5` or `1,3,5`.
        corruption_images: Number of images to corrupt, the same share of every class; all by default.
        seed: Seed of the corruptions and of the choice of these images.
        data_root: Folder with the data set's files, if it is not where the run found it.
        cpu: Stay on the CPU even if there is an accelerator.
        out: File to write; `evaluation.json` in the run folder by default.
    """

    run: str
    part: Literal["test", "validation"] | None = None
    corruptions: str | None = None
    severities: str = "1..5"
    corruption_images: int | None = None
    seed: int = 0
    data_root: str | None = None
    cpu: bool = False
    out: str | None = None


@dataclass(kw_only=True)
class ReportOptions:
    """Compare runs, or show what a grid found: tables, and one HTML page with the figures.

    Args:
        runs: Run folders; those that differ in nothing but the seed are pooled. Or the folder of one grid.
        out: The page to write, `report.html` by default; for a grid the folder for page and tables,
            its own by default.
        title: Its title.
        images: Test images to look at for the figures that need the networks, at most; what is found is kept
            in the run folders. With 0 nothing is measured, and what was kept before is shown.
        layout: How features are laid out in the plane: by t-SNE, or by UMAP (umap-learn).
        baseline: Of a grid: the method that the others are compared with, KD by default.
        data_root: Folder with the data set's files, if it is not where the runs found it.
        cpu: Stay on the CPU even if there is an accelerator.
    """

    runs: list[str]
    out: str | None = None
    title: str | None = None
    images: int = 2000
    layout: Literal["tsne", "umap"] = "tsne"
    baseline: str | None = None
    data_root: str | None = None
    cpu: bool = False


_KINDS: dict[str, type] = {
    "train": TrainConfig,
    "distill": DistillConfig,
    "demo": DemoOptions,
    "cache": CacheConfig,
    "evaluate": EvaluateOptions,
    "bench": BenchConfig,
    "report": ReportOptions,
    "export": ExportConfig,
    "predict": PredictConfig,
    "card": CardConfig,
    "push": PushConfig,
}


def parse(argv: Sequence[str]) -> tuple[str, Any]:
    """Parse the command line.

    Args:
        argv: Arguments after the program's name.

    Returns:
        The verb and its options: a configuration object, or a plain value for `list`.

    Raises:
        InputError: The arguments or the configuration file cannot be used.
    """
    argv, added = added_apart(_repeated_as_list(_spelled_as_declared(argv)))
    loss = _loss_name(argv)
    argv = _switches_with_value(argv, loss)
    parser = Parser(
        prog="cmkd",
        version=__version__,
        description="Knowledge distillation that keeps the teacher's values and its ranking of the classes.",
    )
    verbs = parser.add_subcommands(dest="verb", metavar="VERB", required=True)
    parsers: dict[str, Parser] = {}
    for verb in ("train", "distill", "demo"):
        options = _KINDS[verb]
        parsers[verb] = each = Parser(description=_summary(options))
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
        type=Any,
        default=[],
        help="More methods, added to that one: `--with ReviewKD --with.weight 1.0`, as often as needed; "
        "`--with ReviewKD --with.help` shows what there is. In YAML a list such as `[{name: ReviewKD, "
        "weight: 1.0}]`; what is given on the command line replaces the list of a file.",
    )
    if argv[:1] == ["distill"]:
        # training needs the mean: a reduction is for one's own loop
        parsers["distill"].add_class_arguments(loss_class(loss), "loss", as_group=False, skip={"reduction"})
    parsers["cache"] = cache = Parser(description=_summary(CacheConfig))
    cache.add_argument("path", help="Folder of the cache.")
    cache.add_argument("--config", action="config", help="YAML file with any of these options.")
    cache.add_class_arguments(CacheConfig, skip={"path"}, as_group=False)
    parsers["evaluate"] = evaluate = Parser(description=_summary(EvaluateOptions))
    evaluate.add_argument("run", help="Run folder.")
    evaluate.add_class_arguments(EvaluateOptions, skip={"run"}, as_group=False)
    parsers["bench"] = bench = Parser(description=_summary(BenchConfig))
    bench.add_argument("spec", help="The grid's YAML file.")
    bench.add_class_arguments(BenchConfig, skip={"spec"}, as_group=False)
    parsers["report"] = report = Parser(description=_summary(ReportOptions))
    report.add_argument(
        "runs",
        nargs="+",
        help="Run folders; those that differ in nothing but the seed are pooled. Or the folder of one grid.",
    )
    report.add_class_arguments(ReportOptions, skip={"runs"}, as_group=False)
    parsers["export"] = export = Parser(description=_summary(ExportConfig))
    export.add_argument("run", help="Run folder.")
    export.add_class_arguments(ExportConfig, skip={"run"}, as_group=False)
    parsers["predict"] = predict = Parser(description=_summary(PredictConfig))
    predict.add_argument("model", help="Run folder, file of `cmkd export`, or hf:USER/NAME.")
    predict.add_argument("images", nargs="+", metavar="image", help="Image files.")
    predict.add_class_arguments(PredictConfig, skip={"model", "images"}, as_group=False)
    parsers["card"] = card = Parser(description=_summary(CardConfig))
    card.add_argument("run", help="Run folder.")
    card.add_class_arguments(CardConfig, skip={"run"}, as_group=False)
    parsers["push"] = push = Parser(description=_summary(PushConfig))
    push.add_argument("run", help="Run folder.")
    push.add_argument("repo", help="Where to, as user/name; it is made if need be.")
    push.add_class_arguments(PushConfig, skip={"run", "repo"}, as_group=False)
    parsers["list"] = listing = Parser(description="List what can be named.")
    listing.add_argument("kind", type=Literal["models", "losses", "datasets"], help="What to list.")
    for verb in ("demo", *(verb for verb in parsers if verb != "demo")):
        verbs.add_subcommand(verb, parsers[verb], help=parsers[verb].description)

    parser.current = parsers.get(argv[0]) if argv else None
    namespace = parser.parse_args(list(argv))
    verb = namespace["verb"]
    options = namespace[verb].as_dict()
    options.pop("config", None)
    if verb == "distill":
        in_file = options.pop("with")
        options["with_"] = [added_from_arguments(*each) for each in added] or added_from_file(in_file)
    if verb == "list":
        return verb, options["kind"]
    kind = _KINDS[verb]
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


def _switches_with_value(argv: Sequence[str], loss: str) -> list[str]:
    """Turn `--cpu` alone into `--cpu true`, and so for whatever else is true or false."""
    kind = _KINDS.get(argv[0]) if argv else None
    if kind is None:
        return list(argv)
    switches = {f"--{field.name}" for field in fields(kind) if field.type in (bool, "bool")}
    if kind is DistillConfig:
        options = inspect.signature(loss_class(loss)).parameters.values()
        switches |= {f"--loss.{option.name}" for option in options if option.annotation in (bool, "bool")}
    valued = []
    for argument, following in zip_longest(argv, argv[1:]):
        valued.append(argument)
        if argument in switches and (following or "").lower() not in ("true", "false", "yes", "no"):
            valued.append("true")
    return valued


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

"""The command line: parse, call, print."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from cmkd import launcher
from cmkd.cli_output import (
    described,
    list_datasets,
    list_losses,
    list_models,
    print_estimate,
    print_images,
    print_network,
    print_outcome,
    print_result,
    print_teacher,
    renew_card,
)
from cmkd.errors import InputError, Interrupted

if TYPE_CHECKING:
    from cmkd.bench.config import BenchConfig
    from cmkd.cli_options import DemoOptions, EvaluateOptions, ReportOptions
    from cmkd.export import ExportConfig, PredictConfig
    from cmkd.hub import CardConfig, PushConfig
    from cmkd.training import CacheConfig, DistillConfig, TrainConfig

EXIT_NO_READER = 1
EXIT_INPUT_ERROR = 2
EXIT_FAILURES = 3
EXIT_INTERRUPTED = 130


def run() -> NoReturn:
    """Run the command line as a program of its own."""
    launcher.leave(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments after the program's name; those of the process by default.

    Returns:
        The exit status: 0, 1 if the reader of the output has gone, 2 for input that cannot be used, 3 if
        runs of a grid failed, 130 after an interruption.
    """
    handler = logging.StreamHandler(sys.stderr)
    logger = logging.getLogger("cmkd")
    logger.addHandler(handler)
    # Of several processes the first one speaks; the others only of what it cannot know.
    others = launcher.number() > 0
    logger.setLevel(logging.WARNING if others else logging.INFO)
    sys.path.append(str(Path.cwd()))  # one's own networks and losses are named by dotted path
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        from cmkd.cli_options import parse

        try:
            verb, options = parse(list(sys.argv[1:] if argv is None else argv))
        except InputError as error:
            # All have the same words, but not the same machine, with its files.
            error.told_elsewhere = launcher.number("LOCAL_RANK") > 0
            raise
        status = VERBS[verb](options) or 0
        sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return EXIT_NO_READER
    except InputError as error:
        if not error.told_elsewhere:
            print(f"cmkd: error: {error}", file=sys.stderr)
        return EXIT_INPUT_ERROR
    except Interrupted:
        if not others:
            print("cmkd: stopped; repeat the same command to continue.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        print("cmkd: interrupted; repeat the same command to continue.", file=sys.stderr)
        return EXIT_INTERRUPTED
    finally:
        logger.removeHandler(handler)
    return status


def _reader_is_gone() -> bool:
    """Return whether nobody reads standard output any more, as after `| head -1`; what is left is dropped."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        return True
    return False


def _demo(options: DemoOptions) -> None:
    from cmkd.demo import demo

    outcome = demo(options.out, epochs=options.epochs, seeds=options.seeds)
    print(outcome.table)
    print(f"\n{outcome.took}\nreport: {outcome.report}")


def _train(config: TrainConfig) -> None:
    from cmkd.training import train

    print_result(train(config))


def _distill(config: DistillConfig) -> None:
    from cmkd.training import distill

    print_result(distill(config, on_teacher=print_teacher))


def _cache(config: CacheConfig) -> None:
    if config.verify:
        from cmkd.teachers import CachedTeacher

        cached = CachedTeacher(config.path)
        size = cached.verify()
        print(f"{described(config.path, cached.manifest)}\nevery checksum is right ({size:,} bytes)")
        return
    from cmkd.training import cache

    manifest = cache(config, on_teacher=print_network, on_shard=print_images)
    if manifest is None:
        print(f"{config.path}: this process has written its part; others are still writing theirs")
    else:
        print(described(config.path, manifest))


def _evaluate(options: EvaluateOptions) -> None:
    from cmkd.cli_evaluation import print_evaluation
    from cmkd.training import evaluate

    found = evaluate(
        options.run,
        part=options.part,
        corruptions=options.corruptions,
        severities=options.severities,
        corruption_images=options.corruption_images,
        seed=options.seed,
        data_root=options.data_root,
        cpu=options.cpu,
        out=options.out,
    )
    setting = found["setting"]
    print_evaluation(found, f"{options.run}: {setting['part']}, {setting['images']:,} images")
    print(f"written: {options.out or Path(options.run) / 'evaluation.json'}")
    if options.out is None:
        renew_card(options.run)


def _bench(config: BenchConfig) -> int:
    if config.dry_run:
        from cmkd.bench.estimate import estimate

        print_estimate(estimate(config))
        return 0
    from cmkd.bench.running import bench

    outcome = bench(config)
    print_outcome(outcome)
    return EXIT_FAILURES if outcome.failures else 0


def _report(options: ReportOptions) -> None:
    from cmkd.bench.reporting import is_grid, report_grid
    from cmkd.cli_options import ReportOptions
    from cmkd.report import group_runs, markdown_table, report_runs

    if grids := [run for run in options.runs if is_grid(run)]:
        if len(options.runs) > 1:
            raise InputError(f"{grids[0]} is a grid, which has a report of its own: give it alone.")
        cells = f"cmkd report {Path(grids[0]) / 'cells'}/*/*/*"
        measuring = ("images", "layout", "data_root", "cpu")
        if given := [name for name in measuring if getattr(options, name) != getattr(ReportOptions, name)]:
            raise InputError(
                f"--{given[0]} is of the figures that need networks, and the report of a grid runs none: "
                f"`{cells}` draws them of its cells."
            )
        found = report_grid(grids[0], options.out, title=options.title, baseline=options.baseline)
        print(f"{found.lead}\n\n{found.tables}\n\nreport: {found.files[0]}")
        print(f"tables: {', '.join(str(file) for file in found.files[1:])}")
        print(f"figures: {found.figures}")
        print(f"for figures that need the networks: {cells}")
        return
    if options.baseline is not None:
        raise InputError("--baseline is of the tables of a grid, and these are runs; leave it out.")
    groups = group_runs(options.runs)
    report, figures = report_runs(
        groups,
        Path(options.out or "report.html"),
        title=options.title or "Comparison of runs",
        images=options.images,
        layout=options.layout,
        data_root=options.data_root,
        cpu=options.cpu,
    )
    print(f"{markdown_table(groups)}\n\nreport: {report}\nfigures: {figures}")
    if len(options.runs) == 1:
        renew_card(options.runs[0])


def _export(config: ExportConfig) -> None:
    from cmkd.cli_export import print_exported
    from cmkd.export import export

    print_exported(export(config))


def _predict(config: PredictConfig) -> int:
    from cmkd.cli_export import print_predictions
    from cmkd.export import predict

    model: str | Path = config.model
    if config.model.startswith("hf:"):
        from cmkd.hub import download

        model = download(config.model)
    found = predict(model, config.images, top=config.top)
    return 0 if print_predictions(found, as_json=config.json) else EXIT_INPUT_ERROR


def _card(config: CardConfig) -> None:
    from cmkd.hub import write_model_card

    print(f"model card: {write_model_card(config.run, license=config.license)}")


def _push(config: PushConfig) -> None:
    from cmkd.hub import push_to_hub

    address = push_to_hub(
        config.run, config.repo, private=config.private, license=config.license, message=config.message
    )
    print(f"pushed: {address}")


def _list(kind: str) -> None:
    {"models": list_models, "losses": list_losses, "datasets": list_datasets}[kind]()


#: What a verb does; what it returns is the exit status, nothing is 0.
VERBS: dict[str, Callable[[Any], int | None]] = {
    "demo": _demo,
    "train": _train,
    "distill": _distill,
    "cache": _cache,
    "evaluate": _evaluate,
    "bench": _bench,
    "report": _report,
    "export": _export,
    "predict": _predict,
    "card": _card,
    "push": _push,
    "list": _list,
}

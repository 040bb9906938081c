"""The command line: parse, call, print."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmkd import launcher
from cmkd.errors import InputError, Interrupted

if TYPE_CHECKING:
    from cmkd.bench.config import BenchConfig
    from cmkd.cli_options import DemoOptions, EvaluateOptions, ReportOptions
    from cmkd.teachers import TeacherReport
    from cmkd.teachers.cache_format import Manifest
    from cmkd.training import CacheConfig, DistillConfig, RunFolder, TrainConfig

EXIT_NO_READER = 1
EXIT_INPUT_ERROR = 2
EXIT_FAILURES = 3
EXIT_INTERRUPTED = 130


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

    _print_result(train(config))


def _distill(config: DistillConfig) -> None:
    from cmkd.training import distill

    _print_result(distill(config, on_teacher=_print_teacher))


def _cache(config: CacheConfig) -> None:
    if config.verify:
        from cmkd.teachers import CachedTeacher

        cached = CachedTeacher(config.path)
        size = cached.verify()
        print(f"{_described(config.path, cached.manifest)}\nevery checksum is right ({size:,} bytes)")
        return
    from cmkd.training import cache

    manifest = cache(config, on_teacher=_print_network, on_shard=_print_images)
    if manifest is None:
        print(f"{config.path}: this process has written its part; others are still writing theirs")
    else:
        print(_described(config.path, manifest))


def _described(path: str, manifest: Manifest) -> str:
    what = manifest.identity
    views = f"{manifest.views} view{'' if manifest.views == 1 else 's'}"
    return (
        f"{path}: logits of {what['samples']:,} images of {what['data']} in {views}, {what['classes']} "
        f"classes, {what['dtype']}; {what['augment']}, seed {what['augment_seed']}; teacher in "
        f"{what['precision']}"
    )


def _print_images(done: int, total: int) -> None:
    print(f"{done:,} of {total:,} images", flush=True)


def _evaluate(options: EvaluateOptions) -> None:
    from cmkd.training import evaluate

    scores = evaluate(options.run, part=options.part, data_root=options.data_root, cpu=options.cpu)
    _print_scores(f"{options.run}: {scores['part']}, {scores['images']} images", scores)


def _bench(config: BenchConfig) -> int:
    from cmkd.cli_output import print_estimate, print_outcome

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
    from cmkd.report import group_runs, markdown_table, write_report

    if grids := [run for run in options.runs if is_grid(run)]:
        if len(options.runs) > 1:
            raise InputError(f"{grids[0]} is a grid, which has a report of its own: give it alone.")
        found = report_grid(grids[0], options.out, title=options.title)
        print(f"{found.lead}\n\n{found.tables}\n\nreport: {found.files[0]}")
        print(f"tables: {', '.join(str(file) for file in found.files[1:])}")
        return
    groups = group_runs(options.runs)
    title = options.title or "Comparison of runs"
    report = write_report(Path(options.out or "report.html"), groups, title=title)
    print(f"{markdown_table(groups)}\n\nreport: {report}")


def _list(kind: str) -> None:
    print_table = {"models": _list_models, "losses": _list_losses, "datasets": _list_datasets}[kind]
    print_table()


def _list_models() -> None:
    from cmkd import models

    rows = [
        [
            size.name,
            f"{size.parameters:,}",
            f"{size.macs / 1e6:,.1f} M",
            f"{size.image_size} x {size.image_size}",
        ]
        for size in models.sizes()
    ]
    _print_table(["network", "parameters", "MACs", "input"], rows)
    print("For 100 classes; MACs: multiplications of convolutions and linear layers for one image.")
    print("Others: wrn_DEPTH_WIDTH, timm:NAME, torchvision:NAME, package.module:factory")


def _list_losses() -> None:
    from cmkd import losses

    for title, found in (
        ("loss on logits", losses.available()),
        ("loss on features", losses.available_on_features()),
    ):
        _print_table([title, "what it is"], [[name, _summary(kind)] for name, kind in found.items()])
    print("Others: package.module.Class. Options: cmkd distill --loss NAME --help")


def _list_datasets() -> None:
    from cmkd import data

    _print_table(["data set", "what it is"], [list(item) for item in data.available().items()])


def _print_teacher(report: TeacherReport) -> None:
    accuracy = "not measured (no validation part)" if report.accuracy is None else f"{report.accuracy:.2%}"
    _print_network(report)
    print(f"  accuracy on the validation part: {accuracy}", flush=True)


def _print_network(report: TeacherReport) -> None:
    print(
        f"teacher: {report.network} from {report.source}, {report.parameters:,} parameters, "
        f"frozen, in eval mode, logits {report.logits}{', their mean' if report.members else ''}"
    )
    for each in report.members or [report.as_dict()]:
        of = f" of {each['network']}" if report.members else ""
        mean, std = ([round(value, 4) for value in each[key]] for key in ("mean", "std"))
        print(f"  normalisation{of}: mean {mean}, std {std} (from {each['normalization']})", flush=True)
        if size := each["image_size"]:
            print(f"  images{of}: resized to {size} x {size}", flush=True)


def _print_result(folder: RunFolder) -> None:
    from cmkd.report import group_runs, write_report

    if launcher.number() > 0:  # the run's files may not even be on its host
        return

    result = folder.read_json("result.json")
    if "test" in result:
        part, title = "test", f"test, {result['images']} images"
    else:
        part, title = "last_validation", "validation, last epoch"
    _print_scores(title, {**result, "student": result.get(part, {})})
    report = write_report(folder.path / "report.html", group_runs([folder.path]), title=folder.path.name)
    print(f"run folder: {folder.path}\nreport: {report}")


#: Scores as they are shown: name, heading, format.
SCORES = (
    ("accuracy", "accuracy", "{:.2%}"),
    ("top5", "top 5", "{:.2%}"),
    ("nll", "NLL", "{:.3f}"),
    ("ece", "ECE", "{:.3f}"),
    ("agreement", "agreement with teacher", "{:.2%}"),
    ("rank_correlation", "rank correlation with teacher", "{:.3f}"),
    ("value_correlation", "value correlation with teacher", "{:.3f}"),
    ("teacher_kl", "KL from teacher", "{:.3f}"),
)


def _print_scores(title: str, scores: dict[str, Any]) -> None:
    networks = [name for name in ("student", "teacher") if name in scores]
    rows = [
        [heading, *(form.format(scores[name][key]) if key in scores[name] else "" for name in networks)]
        for key, heading, form in SCORES
        if any(key in scores[name] for name in networks)
    ]
    rows.append(["parameters", f"{scores['parameters']:,}", *[""] * (len(networks) - 1)])
    rows.append(["CPU latency", f"{scores['latency_ms']:.2f} ms", *[""] * (len(networks) - 1)])
    _print_table([title, *networks], rows)


def _print_table(header: list[str], rows: list[list[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _summary(documented: type) -> str:
    return (documented.__doc__ or "").partition("\n")[0]


#: What a verb does; what it returns is the exit status, nothing is 0.
VERBS: dict[str, Callable[[Any], int | None]] = {
    "demo": _demo,
    "train": _train,
    "distill": _distill,
    "cache": _cache,
    "evaluate": _evaluate,
    "bench": _bench,
    "report": _report,
    "list": _list,
}

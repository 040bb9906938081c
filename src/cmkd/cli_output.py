"""What the command line prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmkd import launcher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cmkd.bench.estimate import Estimate
    from cmkd.bench.running import Outcome
    from cmkd.teachers import TeacherReport
    from cmkd.teachers.cache_format import Manifest
    from cmkd.training import RunFolder


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Print a table as wide as the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for heading in header:
        table.add_column(Text(heading))
    for row in rows:
        table.add_row(*map(Text, row))  # rich would read [a] in a mere string as markup
    Console().print(table)


def print_estimate(found: Estimate) -> None:
    """Print what a grid will take."""
    from cmkd.bench.rates import in_words

    print_table(["job", "state"], [[job.name, state] for job, state in found.jobs])
    counts = ", ".join(
        f"{sum(state == wanted for _, state in found.jobs)} {wanted}"
        for wanted in ("finished", "begun", "missing")
    )
    cells = sum(job.kind == "cell" for job, _ in found.jobs)
    disk = "unknown" if found.disk is None else f"{found.disk / 2**30:.2f} GiB"
    print(f"{len(found.jobs)} jobs, {cells} of them cells: {counts}")
    print(f"time: {in_words(found.seconds)} ({found.how})")
    print(f"disk: {disk}; free: {found.free / 2**30:.1f} GiB\nfolder: {found.folder} (nothing was written)")


def print_outcome(outcome: Outcome) -> None:
    """Print what became of a grid."""
    failed = {name: each for name, each in outcome.failures.items() if "blocked_by" not in each}
    for name, failure in failed.items():
        print(f"{name}: {failure['error']}")
        if failure["log"]:
            print(f"  exit status {failure['status']}, log: {outcome.folder / str(failure['log'])}")
    blocked = len(outcome.failures) - len(failed)
    said = f"{len(failed)} failed, {blocked} blocked; " if outcome.failures else ""
    print(f"{outcome.finished} of {outcome.cells} cells are finished; {said}cmkd report {outcome.folder}")


def print_teacher(report: TeacherReport) -> None:
    """Print what was found out about the teacher of a run."""
    accuracy = "not measured (no validation part)" if report.accuracy is None else f"{report.accuracy:.2%}"
    print_network(report)
    print(f"  accuracy on the validation part: {accuracy}", flush=True)


def print_network(report: TeacherReport) -> None:
    """Print what was found out about a teacher."""
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


def print_images(done: int, total: int) -> None:
    """Print how many images a cache has been written for."""
    print(f"{done:,} of {total:,} images", flush=True)


def described(path: str, manifest: Manifest) -> str:
    """Return what a cache holds, in words."""
    what = manifest.identity
    views = f"{manifest.views} view{'' if manifest.views == 1 else 's'}"
    return (
        f"{path}: logits of {what['samples']:,} images of {what['data']} in {views}, {what['classes']} "
        f"classes, {what['dtype']}; {what['augment']}, seed {what['augment_seed']}; teacher in "
        f"{what['precision']}"
    )


def print_result(folder: RunFolder) -> None:
    """Print what a finished run reached, and write its page and its model card."""
    from cmkd.hub import write_model_card
    from cmkd.report import group_runs, write_report

    if launcher.number() > 0:  # the run's files may not even be on its host
        return

    result = folder.read_json("result.json")
    if "test" in result:
        part, title = "test", f"test, {result['images']} images"
    else:
        part, title = "last_validation", "validation, last epoch"
    # Only what has a teacher is a student.
    name = "student" if (folder.path / "teacher.json").exists() else "network"
    print_scores(title, {**result, name: result.get(part, {})}, [name, "teacher"])
    report = write_report(folder.path / "report.html", group_runs([folder.path]), title=folder.path.name)
    card = write_model_card(folder.path)
    print(f"run folder: {folder.path}\nreport: {report}\nmodel card: {card}")


def renew_card(run: str) -> None:
    """Write the model card of a run again, if it has one: it tells and shows what has been measured since.

    Without the weights, which may lie elsewhere, it stays as it is.
    """
    if all((Path(run) / name).exists() for name in ("README.md", "student.safetensors")):
        from cmkd.hub import write_model_card

        write_model_card(run)


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


def print_scores(title: str, scores: dict[str, Any], networks: Sequence[str]) -> None:
    """Print the scores of some networks, and what the first one costs."""
    networks = [name for name in networks if name in scores]
    rows = [
        [heading, *(form.format(scores[name][key]) if key in scores[name] else "" for name in networks)]
        for key, heading, form in SCORES
        if any(key in scores[name] for name in networks)
    ]
    rows.append(["parameters", f"{scores['parameters']:,}", *[""] * (len(networks) - 1)])
    rows.append(["CPU latency", f"{scores['latency_ms']:.2f} ms", *[""] * (len(networks) - 1)])
    print_table([title, *networks], rows)


def list_models() -> None:
    """Print the networks that can be named."""
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
    print_table(["network", "parameters", "MACs", "input"], rows)
    print("For 100 classes; MACs: multiplications of convolutions and linear layers for one image.")
    print("Others: wrn_DEPTH_WIDTH, timm:NAME, torchvision:NAME, package.module:factory")


def list_losses() -> None:
    """Print the methods that can be named."""
    from cmkd import losses

    for title, found in (
        ("loss on logits", losses.available()),
        ("loss on features", losses.available_on_features()),
    ):
        print_table([title, "what it is"], [[name, _summary(kind)] for name, kind in found.items()])
    print("Others: package.module.Class. Options: cmkd distill --loss NAME --help")


def list_datasets() -> None:
    """Print the data sets that can be named."""
    from cmkd import data

    print_table(["data set", "what it is"], [list(item) for item in data.available().items()])


def _summary(documented: type) -> str:
    return (documented.__doc__ or "").partition("\n")[0]

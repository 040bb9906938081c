"""What the command line prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cmkd.bench.estimate import Estimate
    from cmkd.bench.running import Outcome


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Print a table as wide as the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*row)
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

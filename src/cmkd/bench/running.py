"""What `cmkd bench` does: a grid from its file to its cells, whatever happens on the way."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from cmkd import launcher
from cmkd.bench.config import BenchConfig
from cmkd.bench.folder import GridFolder
from cmkd.bench.names import safe, shown
from cmkd.bench.plan import Plan, expand
from cmkd.bench.progress import Display
from cmkd.bench.reading import read_spec
from cmkd.bench.runners import LocalRunner, Runner, Task
from cmkd.bench.schedule import Schedule
from cmkd.errors import InputError, Interrupted
from cmkd.stopping import stop_requests

logger = logging.getLogger(__name__)

_WAIT_SECONDS = 0.5


@dataclass(frozen=True)
class Outcome:
    """What became of a grid.

    Attributes:
        folder: Its folder.
        finished: Number of finished cells.
        cells: Number of cells.
        failures: Job -> what `failures.json` says of it; empty if everything is finished.
    """

    folder: Path
    finished: int
    cells: int
    failures: dict[str, dict[str, object]] = field(default_factory=dict)


def bench(config: BenchConfig) -> Outcome:
    """Run what is missing of a grid.

    Args:
        config: The options.

    Returns:
        What became of it; a job that fails does not stop the others.

    Raises:
        InputError: The file or the folder cannot be used, or a run in it has other options.
        Interrupted: The command was asked to stop; the same one goes on.
    """
    plan, folder = open_grid(config)
    with folder.claim():
        folder.refuse_other_grid(plan.spec.name)
        schedule = Schedule(plan, folder)
        folder.keep_plan(schedule.plan, shown(config.spec))
        schedule.keep_failures()
        if any(stage == "waiting" for stage in schedule.stages.values()):
            runner = open_runner(config)
            try:
                run(schedule, runner)
            finally:
                runner.close()
                folder.keep_plan(schedule.plan, shown(config.spec))
    cells = schedule.plan.of("cell")
    done = sum(schedule.stages[cell.name] == "finished" for cell in cells)
    return Outcome(folder.path, done, len(cells), dict(schedule.failures))


def open_grid(config: BenchConfig) -> tuple[Plan, GridFolder]:
    """Read the file of a grid; return its jobs, as far as they are known, and its folder.

    Raises:
        InputError: The file cannot be used.
    """
    if launcher.world_size() > 1:
        raise InputError("`cmkd bench` starts its runs itself: call it without a launcher, and see --jobs.")
    spec = read_spec(config.spec)
    out = shown(config.out or Path("runs") / safe(spec.name))
    return expand(spec, out, {}), GridFolder(out)


def open_runner(config: BenchConfig) -> Runner:
    """Return what runs the jobs."""
    if config.runner == "ray":
        from cmkd.bench.on_ray import RayRunner

        return RayRunner(config.address, config.jobs, gpus=config.gpus_per_cell, cpus=config.cpus_per_cell)
    return LocalRunner(config.jobs or 1)


def run(schedule: Schedule, runner: Runner) -> None:
    """Run all jobs that can be run.

    Args:
        schedule: The jobs.
        runner: What runs them.

    Raises:
        Interrupted: SIGINT or SIGTERM arrived; the jobs at work have kept their state.
    """
    with stop_requests() as stop_requested, Display(schedule, runner.slots) as display:
        while True:
            while len(schedule.of("running")) < runner.slots and not stop_requested.is_set():
                if (job := schedule.next()) is None:
                    break
                try:
                    runner.start(Task(job.name, schedule.begin(job), schedule.folder.log(job.name)))
                except (InputError, OSError) as error:  # no room for its log, say
                    schedule.fail(job, str(error))
                    display.failed(job, str(error))
                    continue
                display.began(job)
            if stop_requested.is_set():
                logger.info("stopping; the runs at work keep their state")
                runner.stop()
                raise Interrupted
            if not schedule.of("running"):
                return
            for name, status in runner.ended(_WAIT_SECONDS).items():
                job = schedule.plan.jobs[name]
                if said := schedule.end(name, status):
                    display.failed(job, said)
                else:
                    display.finished(job)
            display.refresh()

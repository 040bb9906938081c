"""Which job may run when: those that others need come first, and a failed one blocks what needs it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from cmkd.bench.folder import GridFolder
from cmkd.bench.plan import Job, Plan, expand
from cmkd.bench.tuning import choose

Stage = Literal["waiting", "running", "finished", "failed", "blocked", "unneeded"]


class Schedule:
    """The jobs of a grid and how far each of them is.

    Args:
        plan: The jobs.
        folder: Their folder.

    Attributes:
        plan: The jobs; options of cells change when their method's trials are decided.
        stages: Name of a job -> how far it is.
        failures: What `failures.json` holds.

    Raises:
        InputError: A run was begun with other options than the grid now has.
    """

    def __init__(self, plan: Plan, folder: GridFolder) -> None:
        self.folder = folder
        self.out = str(folder.path)
        self.plan = plan
        self.stages: dict[str, Stage] = {
            job.name: "finished" if folder.state(job) == "finished" else "waiting"
            for job in plan.jobs.values()
        }
        finished = [name for name, stage in self.stages.items() if stage == "finished"]
        self.stages |= dict.fromkeys(plan.unneeded(finished), "unneeded")
        earlier = folder.read_json("failures.json")
        self._attempts = {name: int(failure["attempts"]) for name, failure in earlier.items()}
        #: Of earlier calls those that have not been tried again yet; what was blocked is looked at anew.
        self.failures: dict[str, dict[str, Any]] = {
            name: failure
            for name, failure in earlier.items()
            if self.stages.get(name) == "waiting" and failure["attempts"]
        }
        for job in plan.jobs.values():
            if plan.decided(job):  # before `tuned.json` says that trials were of other options
                folder.refuse_changed(job)
        self._tune()
        for job in self.plan.of("cell"):
            if self.plan.decided(job) and not plan.decided(job):
                folder.refuse_changed(job)

    def next(self) -> Job | None:
        """Return a job that may begin; None if there is none now."""
        for name, stage in self.stages.items():
            job = self.plan.jobs[name]
            there = all(self.stages[need] in ("finished", "unneeded") for need in job.needs)
            if stage == "waiting" and there:
                return job
        return None

    def begin(self, job: Job) -> list[str]:
        """Note that a job begins; return the words after `cmkd` that run it.

        Raises:
            InputError: Its run was begun with other options, or its file cannot be written; see `fail`.
        """
        self._attempts[job.name] = self._attempts.get(job.name, 0) + 1
        self.failures.pop(job.name, None)
        self.folder.refuse_changed(job)  # tuning may have chosen others since
        words = self.folder.keep_job(job)
        self.stages[job.name] = "running"
        return words

    def end(self, name: str, status: int) -> str:
        """Note that a job has ended.

        Args:
            name: Its name.
            status: Its exit status.

        Returns:
            What is to be said of it if it failed; an empty text if it is finished.
        """
        job = self.plan.jobs[name]
        if status == 0 and self.folder.state(job) == "finished":
            self.stages[name] = "finished"
            self.keep_failures()
            if job.kind == "trial":
                self._tune()
            return ""
        error = last_error(self.folder.log(name))
        if status < 0:
            error = f"killed by signal {-status}" + (f", after: {error}" if error else "")
        self.fail(job, error or "it ended without a word", status)
        return str(self.failures[name]["error"])

    def _tune(self) -> None:
        """Give cells the options that the finished trials chose."""
        tuned = choose(self.plan, self.folder)
        if tuned == self.plan.tuned:
            return
        decided = tuned.keys() - self.plan.tuned.keys()
        self.plan = expand(self.plan.spec, self.out, tuned)
        for cell in self.plan.of("cell"):
            # Trials that were added may have chosen others than those of cells from before.
            if cell.labels["method"] in decided and self.folder.changed(cell):
                self.stages[cell.name] = "waiting"  # to be refused when it begins

    def fail(self, job: Job, error: str, status: int | None = None) -> None:
        """Note that a job has failed, and what it blocks.

        Args:
            job: The job.
            error: Why, in a line.
            status: Its exit status; None if it could not even begin, so that what is in its folder is not the
                grid's.
        """
        self.stages[job.name] = "failed"
        log = self.folder.log(job.name)
        self.failures[job.name] = {
            "status": status,
            "error": error,
            "attempts": self._attempts.get(job.name, 1),
            "log": log.relative_to(self.folder.path).as_posix()
            if status is not None and log.exists()
            else None,
        }
        for other in self.plan.jobs.values():  # in their order, so that what is blocked blocks in turn
            reason = next((need for need in other.needs if self.stages[need] in ("failed", "blocked")), None)
            if reason is not None and self.stages[other.name] == "waiting":
                self.stages[other.name] = "blocked"
                self.failures[other.name] = {
                    "status": None,
                    "error": f"blocked by {self._root(reason)}, which failed",
                    "attempts": 0,
                    "log": None,
                    "blocked_by": self._root(reason),
                }
        self.keep_failures()

    def _root(self, name: str) -> str:
        return str(self.failures[name].get("blocked_by", name))

    def keep_failures(self) -> None:
        """Write `failures.json`."""
        self.folder.write_json("failures.json", self.failures)

    def of(self, *stages: Stage) -> list[Job]:
        """Return the jobs that are so far."""
        return [self.plan.jobs[name] for name, stage in self.stages.items() if stage in stages]


def last_error(log: Path) -> str:
    """Return the line of a log that says best why it ended: the last error of cmkd's, else the last line."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:  # it was never opened
        return ""
    lines = [line.strip() for line in re.split(r"[\r\n]+", text.rpartition("\n== ")[2]) if line.strip()]
    errors = [line.removeprefix("cmkd: error: ") for line in lines if line.startswith("cmkd: error: ")]
    return (errors or lines[1:] or [""])[-1]

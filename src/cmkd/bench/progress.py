"""What is seen of a grid at work: a table on a terminal, elsewhere a line for each job that ends."""

from __future__ import annotations

import logging
import statistics
import time
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cmkd.bench.plan import Job
from cmkd.bench.rates import Rates, epochs_done, in_words
from cmkd.bench.schedule import Schedule

logger = logging.getLogger(__name__)


class Display:
    """Display of a grid, shown while its context lasts.

    Args:
        schedule: The jobs.
        slots: How many run at a time.
        console: Console to draw on; standard error by default.
    """

    def __init__(self, schedule: Schedule, slots: int, console: Console | None = None) -> None:
        self.schedule = schedule
        self.slots = slots
        self.console = console or Console(stderr=True)
        self.rates = Rates(schedule.folder)
        #: Teacher, student and part of the images -> method -> accuracies.
        self.scores: dict[tuple[str, str, str], dict[str, list[float]]] = {}
        self._begun: dict[str, float] = {}
        self._live: Live | None = None
        for job in schedule.of("finished"):
            self._learn(job)

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._live = Live(self.drawn(), console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def began(self, job: Job) -> None:
        """Show that a job has begun."""
        self._begun[job.name] = time.monotonic()
        self.refresh()

    def finished(self, job: Job) -> None:
        """Show that a job is finished."""
        scores = self._learn(job)
        took = in_words(time.monotonic() - self._begun[job.name])
        said = ", ".join(f"{part} {accuracy:.2%}" for part, accuracy in scores.items())
        self._say(f"{self._count()} {job.name}: finished in {took}{', ' if said else ''}{said}")

    def failed(self, job: Job, error: str) -> None:
        """Show that a job has failed."""
        self._say(f"{self._count()} {job.name}: FAILED: {error}")

    def refresh(self) -> None:
        """Draw anew."""
        if self._live is not None:
            self._live.update(self.drawn(), refresh=True)

    def _count(self) -> str:
        cells = self.schedule.plan.of("cell")
        done = sum(self.schedule.stages[cell.name] == "finished" for cell in cells)
        return f"[{done}/{len(cells)} cells]"

    def _say(self, text: str) -> None:
        if self._live is None:
            logger.info(text)
        else:  # above the table: what goes past its console would be drawn into it
            self._live.console.print(text, highlight=False, markup=False)

    def _learn(self, job: Job) -> dict[str, float]:
        """Remember how long a job took and what it reached; return the accuracy on each part."""
        if job.kind == "cache":
            return {}
        self.rates.learn(job)
        result = self.schedule.folder.run(job).read_json("result.json")
        keys = {"validation": "last_validation", "test": "test"}
        scores = {part: float(result[key]["accuracy"]) for part, key in keys.items() if key in result}
        if job.kind == "cell" and scores:
            part, accuracy = next(iter(scores.items()))  # a pair or a method may have no validation part
            of_part = self.scores.setdefault((job.labels["teacher"], job.labels["student"], part), {})
            of_part.setdefault(job.labels["method"], []).append(accuracy)
        return scores

    def seconds_left(self) -> float | None:
        """Return how long the rest takes; None before a run like each of the rest has finished."""
        total = self.rates.total(self.schedule.of("waiting", "running"))
        return None if total is None else total / self.slots

    def drawn(self) -> RenderableType:
        """Return what is shown on a terminal."""
        plan, stages = self.schedule.plan, self.schedule.stages
        counts = [
            f"{self._count()[1:-1]} done",
            f"{len(self.schedule.of('running'))} running",
            f"{len(self.schedule.of('waiting'))} jobs waiting",
        ]
        if wrong := self.schedule.of("failed", "blocked"):
            failed = len(self.schedule.of("failed"))
            counts.append(f"{failed} failed, {len(wrong) - failed} blocked")
        counts.append(f"time left {in_words(self.seconds_left())}")
        at_work = Table.grid(padding=(0, 2))
        for name, stage in stages.items():
            if stage == "running":
                job = plan.jobs[name]
                what = "" if job.kind == "cache" else f"epoch {self._epoch(job)} of {job.epochs}"
                at_work.add_row("running", Text(name), what)
        best = Table.grid(padding=(0, 2))
        for (teacher, student, part), methods in self.scores.items():
            means = {method: statistics.fmean(values) for method, values in methods.items()}
            leader = max(means, key=lambda method: means[method])
            best.add_row(
                "best so far",
                Text(f"{teacher} to {student}"),  # in a str, `[x]` would be markup
                Text(f"{leader} {means[leader]:.2%} ({part}, mean of {len(methods[leader])})"),
            )
        return Group(Text(", ".join(counts)), at_work, best)

    def _epoch(self, job: Job) -> int:
        return min(epochs_done(self.schedule.folder, job) + 1, job.epochs)

"""How long runs take, from those that have run."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from cmkd.bench.folder import GridFolder
from cmkd.bench.plan import Job


class Rates:
    """Seconds per epoch of students and methods.

    Args:
        folder: The grid's folder.
    """

    def __init__(self, folder: GridFolder) -> None:
        self._folder = folder
        self._seconds: dict[tuple[str, ...], list[float]] = {}

    def learn(self, job: Job) -> None:
        """Look at a finished run."""
        if job.kind == "cache":
            return
        rows = self._folder.run(job).read_metrics()
        if rows:
            seconds = sum(row["seconds"] for row in rows) / len(rows)
            for key in _keys(job):
                self._seconds.setdefault(key, []).append(seconds)

    def suppose(self, job: Job, seconds: float) -> None:
        """Take a measured time per epoch for the runs of a network that none has finished of."""
        self._seconds.setdefault(_keys(job)[-1], [seconds])

    def knows(self, job: Job) -> bool:
        """Whether there is a time for a job."""
        return any(key in self._seconds for key in _keys(job))

    def seconds(self, job: Job, done: int = 0) -> float | None:
        """Return how long a job takes.

        Args:
            job: The job.
            done: Epochs of it that are done.

        Returns:
            Seconds of training: as the finished runs of the same network and method took, else those of the
            same network; None if there are none.
        """
        for key in _keys(job):
            if found := self._seconds.get(key):
                return statistics.fmean(found) * max(job.epochs - done, 0)
        return None

    def total(self, jobs: Iterable[Job]) -> float | None:
        """Return how long several take, one after the other; None if that is not known of all."""
        total = 0.0
        for job in jobs:
            seconds = self.seconds(job, epochs_done(self._folder, job))
            if seconds is None:
                return None
            total += seconds
        return total


def _keys(job: Job) -> list[tuple[str, ...]]:
    """Return what runs have in common that take alike, closest first."""
    if job.kind == "teacher":
        return [("train", str(job.options["model"]))]
    if job.kind == "cache":
        return [("cache", str(job.labels["teacher"]))]
    teacher, student, method = (str(job.labels[key]) for key in ("teacher", "student", "method"))
    return [(teacher, student, method), (teacher, student), (student,)]


def epochs_done(folder: GridFolder, job: Job) -> int:
    """Return how many epochs of a job are done."""
    if job.kind == "cache":
        return job.epochs if folder.state(job) == "finished" else 0
    try:
        content = folder.run(job).metrics.read_bytes()
    except FileNotFoundError:
        return 0
    return content.count(b"\n")


def in_words(seconds: float | None) -> str:
    """Return a time as it is said: `40 s`, `12 min`, `3 h 05 min`, `12 days`."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds >= 3 * 86_400:
        return f"{seconds / 86_400:,.0f} days"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"

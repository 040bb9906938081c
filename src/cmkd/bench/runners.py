"""Where jobs run: what every runner can do, and the one for this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Protocol

from cmkd.bench.child import begin

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Task:
    """A job as a runner sees it.

    Attributes:
        name: Name of the job.
        words: What follows `cmkd` on the command line.
        log: File that gets what it says.
    """

    name: str
    words: Sequence[str]
    log: Path


class Runner(Protocol):
    """Runs tasks, several at a time."""

    slots: int
    """How many tasks at a time."""

    def start(self, task: Task) -> None:
        """Start a task."""

    def ended(self, seconds: float) -> dict[str, int]:
        """Return name and exit status of the tasks that have ended, after waiting for one at most so long."""

    def stop(self) -> None:
        """Ask all tasks to stop, and wait until they have kept their state."""

    def close(self) -> None:
        """Let go of whatever the runner holds."""


class LocalRunner:
    """Processes on this machine.

    Args:
        slots: How many at a time. Each sees one GPU, the slots' GPUs going round.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._processes: dict[str, tuple[int, Popen[bytes]]] = {}
        self._gpus = visible_gpus()

    def start(self, task: Task) -> None:
        """Start a process."""
        taken = {slot for slot, _ in self._processes.values()}
        slot = next(number for number in range(self.slots) if number not in taken)
        self._processes[task.name] = slot, begin(task.words, task.log, self.environment(slot))

    def environment(self, slot: int) -> dict[str, str]:
        """Return the variables of a slot's processes: its share of the cores, and its GPU."""
        environment = dict(os.environ)
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // self.slots)))
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[slot % len(self._gpus)]
        return environment

    def ended(self, seconds: float) -> dict[str, int]:
        """Return what has ended; see `Runner`."""
        until = time.monotonic() + seconds
        while True:
            found = {
                name: status
                for name, (_, process) in self._processes.items()
                if (status := process.poll()) is not None
            }
            if found or time.monotonic() >= until:
                break
            time.sleep(_POLL_SECONDS)
        for name in found:
            del self._processes[name]
        return found

    def stop(self) -> None:
        """Ask all processes to stop, and wait; a second Ctrl-C kills them."""
        processes = [process for _, process in self._processes.values()]
        try:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()
        except KeyboardInterrupt:
            for process in processes:
                process.kill()
                process.wait()
        self._processes.clear()

    def close(self) -> None:
        """Kill what is still at work, as after an error."""
        for _, process in self._processes.values():
            process.kill()
            process.wait()
        self._processes.clear()


def cores() -> int:
    """Return how many CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu.strip() for gpu in named.split(",") if gpu.strip() not in ("", "-1")]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]

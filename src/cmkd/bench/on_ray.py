"""Jobs on a Ray cluster: as many at a time as it has room for, GPUs shared by fractions."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmkd.bench.child import begin
from cmkd.bench.runners import Task
from cmkd.errors import InputError
from cmkd.libraries import require

_RETRIES = 5  # of a job whose worker died; it goes on from its last checkpoint
_POLL_SECONDS = 0.5


class RayRunner:
    """Processes on the machines of a cluster, which all see the grid's folder under the same path.

    Args:
        address: Address of the cluster; see `ray.init`.
        slots: How many at a time; as many as there is room for by default.
        gpus: GPUs of each, also a fraction; by default 1 where the cluster has any.
        cpus: CPU cores of each.

    Raises:
        InputError: Ray is not installed, the cluster cannot be reached, or it has no room for even one.
    """

    def __init__(self, address: str | None, slots: int | None, *, gpus: float | None, cpus: float) -> None:
        self._ray = ray = require("ray", "cluster")
        try:
            ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            said = " ".join(str(error).split())
            raise InputError(f"--address {address}: the cluster cannot be reached ({said}).") from error
        there: dict[str, float] = ray.cluster_resources()
        self.gpus = float(there.get("GPU", 0) > 0) if gpus is None else gpus
        asked = {"CPU": cpus, **({"GPU": self.gpus} if self.gpus else {})}
        # A little more than there is: a tenth of a GPU goes into one ten times, whatever 1 / 0.1 rounds to.
        room = min(int(there.get(kind, 0) / each + 1e-6) for kind, each in asked.items())
        if slots is None and room < 1:
            self.close()
            raise InputError(
                f"the cluster has {there.get('CPU', 0):g} CPU cores and {there.get('GPU', 0):g} GPUs, too "
                f"few for --cpus_per_cell {cpus:g} and --gpus_per_cell {self.gpus:g}; ask for less, or give "
                "--jobs if it will grow."
            )
        self.slots = room if slots is None else slots
        # Not what this process has: another machine may have other GPUs, and Ray gives them out.
        self._told = {key: os.environ[key] for key in ("PYTHONPATH",) if key in os.environ}
        self._told["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(max(1, int(cpus))))
        self._work = ray.remote(num_cpus=cpus, num_gpus=self.gpus, max_retries=_RETRIES)(_work)
        self._tasks: dict[Any, Task] = {}

    def start(self, task: Task) -> None:
        """Hand a task to the cluster."""
        log = str(task.log.resolve())
        self._tasks[self._work.remote(list(task.words), str(Path.cwd()), log, self._told)] = task

    def ended(self, seconds: float) -> dict[str, int]:
        """Return what has ended; see `Runner`."""
        if not self._tasks:
            return {}
        done, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=seconds)
        found = {}
        for each in done:
            task = self._tasks.pop(each)
            try:
                found[task.name] = int(self._ray.get(each))
            except self._ray.exceptions.RayError as error:
                found[task.name] = 1
                said = f"\ncmkd: error: the cluster failed: {' '.join(str(error).split())[-300:]}\n"
                with contextlib.suppress(OSError), task.log.open("a", encoding="utf-8") as log:
                    log.write(said)  # unless that is what has failed
        return found

    def stop(self) -> None:
        """Ask all tasks to stop, and wait."""
        for each in self._tasks:
            self._ray.cancel(each)
        if self._tasks:
            self._ray.wait(list(self._tasks), num_returns=len(self._tasks))
        self._tasks.clear()

    def close(self) -> None:
        """Leave the cluster, which ends what is still at work for this program."""
        self._ray.shutdown()


def _work(words: Sequence[str], folder: str, log: str, told: Mapping[str, str]) -> int:
    """Run a task on a machine of the cluster; return its exit status."""
    process = begin(words, Path(log), {**os.environ, **told}, folder)
    try:
        while process.poll() is None:  # Ray's wish to stop is an exception between two looks
            time.sleep(_POLL_SECONDS)
        return process.returncode
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()

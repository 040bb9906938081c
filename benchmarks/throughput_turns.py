"""Turns: a training loop in a process of its own, run some steps at a time, and timed from inside.

The measuring side starts a `Contestant`; what runs in its process calls `Turns.step` after every training
step, whatever loop the step belongs to, and is held there while the others have their turns.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from throughput_clock import Clock


class Finished(Exception):
    """Raised in a contestant's loop when no further turn will come. It is no error."""


class Turns:
    """The contestant's side: counts its steps, reports a turn, and waits for the next.

    Args:
        commands: Where turns are asked for, one JSON object per line: `lead` steps that are not timed,
            `steps` that are, and whether to `split` their time.
        answers: Where the turns are reported.
        device: Whose work has to be waited for.
    """

    def __init__(self, commands: IO[str], answers: IO[str], device: torch.device) -> None:
        self.clock = Clock(device)
        self._commands, self._answers, self._device = commands, answers, device
        self._lead, self._steps, self._done = 0, 1, 0  # the first step builds, allocates and compiles
        self._start = time.perf_counter()

    def step(self) -> None:
        """Tell that a training step has ended.

        Raises:
            Finished: The measuring side has gone.
        """
        self._done += 1
        if self._done == self._lead:
            self._begin()
        elif self._done == self._lead + self._steps:
            self._report()
            self._await()
        else:
            self.clock.next_step()

    def _begin(self) -> None:
        self._wait()
        self.clock.reset()
        self._start = time.perf_counter()

    def _report(self) -> None:
        self._wait()
        seconds = (time.perf_counter() - self._start) / self._steps
        split = {name: each / self._steps for name, each in self.clock.read().items()}
        answer = {"seconds": seconds, "split": split, "memory": peak_memory(self._device)}
        print(json.dumps(answer), file=self._answers, flush=True)

    def _await(self) -> None:
        line = self._commands.readline()
        if not line:
            raise Finished
        command = json.loads(line)
        self._lead, self._steps, self._done = command["lead"], command["steps"], 0
        if command["split"]:
            self.clock.start()
        if not self._lead:
            self._begin()

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class Contestant:
    """The measuring side: a process that runs one training loop.

    Args:
        script: Python file that is run with `spec`, as JSON, for its only argument.
        spec: What to run.

    Raises:
        RuntimeError: The process ended before its first step; the message ends with what it said.
    """

    def __init__(self, script: Path, spec: dict[str, Any]) -> None:
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._name = f"{spec['contestant']} in {spec['pair']}"
        command = [sys.executable, str(script), json.dumps(spec)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._said, text=True)
        self._answer()

    def turn(self, *, lead: int, steps: int, split: bool = False) -> dict[str, Any]:
        """Have it run `lead + steps` steps.

        Args:
            lead: Steps at the beginning that are not timed.
            steps: Timed steps.
            split: Say what the time went into, now and from now on. Costs a little.

        Returns:
            `seconds` per step, their `split` by phase, and `memory`, the process's peak so far in bytes.
        """
        print(
            json.dumps({"lead": lead, "steps": steps, "split": split}), file=self._process.stdin, flush=True
        )
        return self._answer()

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            pipe.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._said.seek(0)
            raise RuntimeError(f"{self._name} failed: {self._said.read()[-3000:]}")
        return json.loads(line)


def serve(run: Callable[[dict[str, Any], Turns], None]) -> None:
    """Be a contestant's process: run the loop that the command line asks for as long as turns come."""
    spec = json.loads(sys.argv[1])
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    try:
        run(spec, Turns(sys.stdin, answers, torch.device(spec["device"])))
    except Finished:
        return


def peak_memory(device: torch.device) -> dict[str, int]:
    """Return the most memory this process has had, in bytes.

    Returns:
        `host`, where Linux tells: the process's high-water mark, and what its worker processes have for
        themselves now; `device`, on CUDA: the most that PyTorch has had allocated.
    """
    found = {}
    if Path("/proc/self/status").exists():
        peak = _kibibytes("/proc/self/status", r"VmHWM")
        for worker in multiprocessing.active_children():
            peak += _kibibytes(f"/proc/{worker.pid}/smaps_rollup", r"Private_(?:Clean|Dirty)")
        found["host"] = 1024 * peak
    if device.type == "cuda":
        found["device"] = torch.cuda.max_memory_allocated(device)
    return found


def _kibibytes(file: str, name: str) -> int:
    try:
        text = Path(file).read_text(encoding="utf-8")
    except OSError:  # a worker that has just ended
        return 0
    return sum(map(int, re.findall(rf"^{name}:\s+(\d+) kB", text, flags=re.MULTILINE)))

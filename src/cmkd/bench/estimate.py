"""What a grid will take: time and disk, without running it."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmkd import models
from cmkd.bench.config import BenchConfig
from cmkd.bench.folder import State
from cmkd.bench.plan import Job, Plan, expand
from cmkd.bench.rates import Rates
from cmkd.bench.running import open_grid
from cmkd.bench.tuning import chosen, trials
from cmkd.errors import InputError
from cmkd.teachers.opening import run_card, run_folder
from cmkd.training import environment
from cmkd.training.caching import autocast
from cmkd.training.config import RunConfig
from cmkd.training.images import load_images
from cmkd.training.processes import process_state

_STEPS = 3  # the median leaves the first one out, which warms up
_CPU_BATCH = 32
#: Of the page that every run gets.
_PAGE_BYTES = 2_000_000
#: Sets that would have to be downloaded to be looked at: training images, classes, side in pixels.
_KNOWN = {"cifar10": (50_000, 10, 32), "cifar100": (50_000, 100, 32), "fashion-mnist": (60_000, 10, 28)}


@dataclass(frozen=True)
class Estimate:
    """What a grid will take.

    Attributes:
        folder: Its folder.
        jobs: All jobs and how far they are.
        seconds: How long the rest takes, with as many jobs at a time as were asked for; None if unknown.
        how: Where the time comes from, or why there is none.
        disk: Bytes that will be written; None if unknown.
        free: Bytes that are free there.
    """

    folder: Path
    jobs: list[tuple[Job, State]]
    seconds: float | None
    how: str
    disk: int | None
    free: int


def estimate(config: BenchConfig) -> Estimate:
    """Say what a grid will take; nothing is written.

    Args:
        config: The options.

    Raises:
        InputError: The file cannot be used.
    """
    plan, folder = open_grid(config)
    plan = expand(plan.spec, str(folder.path), chosen(trials(plan, folder)))
    listed = (*plan.of("teacher"), *plan.of("cache"), *plan.of("trial"), *plan.cells())
    jobs = [(job, folder.state(job)) for job in listed]
    finished = [job.name for job, state in jobs if state == "finished"]
    spared = {*finished, *plan.unneeded(finished)}
    rest = [job for job, _ in jobs if job.name not in spared]
    rates = Rates(folder)
    for job, state in jobs:
        if state == "finished":
            rates.learn(job)
    how, disk = "as runs of this grid took that have finished", None
    try:
        costs = _Costs(plan)
        disk = sum(costs.disk(job) for job in rest)
        for job in rest:
            if not rates.knows(job):
                how = "by a few steps of each network on random images, with cross-entropy alone"
                rates.suppose(job, costs.seconds_per_epoch(job))
    except InputError as error:
        how = str(error)
    total = rates.total(rest)
    slots = max(1, min(config.jobs or 1, len(rest)))
    return Estimate(
        folder.path, jobs, None if total is None else total / slots, how, disk, _free(folder.path)
    )


def _free(path: Path) -> int:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


class _Costs:
    """What runs cost that nobody has run yet: steps on random images, and the size of the networks."""

    def __init__(self, plan: Plan) -> None:
        self._spec = plan.spec
        known = {each.name for each in fields(RunConfig)}
        self._config = RunConfig(**{key: value for key, value in plan.spec.options.items() if key in known})
        self._device = process_state(cpu=self._config.cpu).device
        self._precision = environment.arithmetic(self._config.precision, self._device)
        self._networks: dict[str, nn.Module] = {}
        self._timed: dict[tuple[str, bool], float] = {}

    @cached_property
    def _images(self) -> tuple[int, int, int]:
        """Number of training images, number of classes, side of the images."""
        name, size = self._config.data, self._config.image_size
        if name in _KNOWN:
            count, classes, own_size = _KNOWN[name]
            return count, classes, size or own_size
        if name.startswith("hf:"):
            raise InputError("unknown, as the data set may have to be downloaded to be looked at")
        data = load_images(self._config)
        return len(data.train), data.num_classes, data.image_size

    def seconds_per_epoch(self, job: Job) -> float:
        """Return how long an epoch of a run takes, or a view of a cache."""
        count = self._images[0]
        if job.kind == "cache":
            return count * self._seconds_of_teacher(job)
        seconds = self._seconds(self._trained(job), training=True)
        if job.kind != "teacher" and "cache" not in job.options:
            seconds += self._seconds_of_teacher(job)
        held_out = self._config.validation  # which is judged instead
        return count * (1 - held_out) * seconds

    def disk(self, job: Job) -> int:
        """Return how many bytes a job leaves: weights, the checkpoint to go on from, and its page."""
        count, classes, _ = self._images
        if job.kind == "cache":
            return job.epochs * count * classes * (4 if job.options.get("dtype") == "float32" else 2)
        state = self._network(self._trained(job)).state_dict().values()
        weights = sum(value.numel() * value.element_size() for value in state)
        copies = 2 if self._config.optimizer == "sgd" else 3  # with the optimiser's
        return (1 + copies + (self._config.ema_decay is not None)) * weights + _PAGE_BYTES

    def _trained(self, job: Job) -> str:
        return str(job.options["model" if job.kind == "teacher" else "student"])

    def _seconds_of_teacher(self, job: Job) -> float:
        """Return how long the teacher takes for an image: all members of an ensemble, one after the other."""
        return sum(self._seconds(name, training=False) for name in self._teachers(job))

    def _teachers(self, job: Job) -> list[str]:
        """Return the networks that teach."""
        teacher = self._spec.teachers[job.labels["teacher"]]
        if teacher.train is not None:
            return [str(teacher.train["model"])]
        if "run" in teacher.given:
            return [str(run_card(run_folder(teacher.given["run"]))["network"])]
        given = teacher.given["network"]
        return [_network_of(each) for each in (given if isinstance(given, list) else [given])]

    def _network(self, name: str) -> nn.Module:
        if name not in self._networks:
            self._networks[name] = models.build(name, self._images[1])
        return self._networks[name]

    def _seconds(self, name: str, *, training: bool) -> float:
        """Return how long a network takes for an image."""
        if (name, training) not in self._timed:
            batch = self._config.batch_size
            if self._device.type == "cpu":
                batch = min(batch, _CPU_BATCH)  # enough to fill a CPU
            network = self._network(name).to(self._device).to(memory_format=torch.channels_last)
            size = self._images[2]
            images = torch.randn(batch, 3, size, size, device=self._device)
            images = images.contiguous(memory_format=torch.channels_last)
            step = partial(_step, network.train(training), images, training=training)
            with autocast(self._precision, self._device):
                seconds = statistics.median(_clock(step, self._device) for _ in range(_STEPS))
            network.cpu()
            self._timed[name, training] = seconds / batch
        return self._timed[name, training]


def _network_of(member: Any) -> str:
    """Return the network of a member of an ensemble, which may be a run folder."""
    run = run_folder(str(member))
    return str(run_card(run)["network"] if (run / "model.json").exists() else member)


def _step(network: nn.Module, images: Tensor, *, training: bool) -> None:
    if not training:
        with torch.no_grad():
            network(images)
        return
    logits = network(images)
    F.cross_entropy(logits, torch.zeros(len(images), dtype=torch.long, device=images.device)).backward()
    network.zero_grad(set_to_none=True)


def _clock(step: Callable[[], None], device: torch.device) -> float:
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started

"""A grid as jobs: what has to run, with which options, after what."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from cmkd import losses
from cmkd.bench.names import pair_name, safe
from cmkd.bench.sections import CACHED
from cmkd.bench.spec import Pair, Spec, merged
from cmkd.losses.features import FeatureLoss
from cmkd.training.config import DistillConfig, TrainConfig

Kind = Literal["teacher", "cache", "trial", "cell"]

#: Options of `cmkd cache` that are the students' as well.
_OF_CACHE = (CACHED - {"augment_seed"}) | {"data_root", "bad_images", "workers"}


@dataclass(frozen=True)
class Job:
    """One call of `cmkd`.

    Attributes:
        name: Its name, which is the path of its folder in the grid's.
        kind: What it makes.
        options: What the verb is told, as in a file for `--config`.
        needs: Names of the jobs that have to be finished before.
        labels: Teacher, and of a cell or a trial student, method and seed; of a trial its number.
    """

    name: str
    kind: Kind
    options: dict[str, Any]
    needs: tuple[str, ...]
    labels: dict[str, Any]

    @property
    def verb(self) -> str:
        """The verb of the command line."""
        return {"teacher": "train", "cache": "cache"}.get(self.kind, "distill")

    @property
    def epochs(self) -> int:
        """How many passes over the images it takes, through the student or, for a cache, the teacher."""
        default = TrainConfig.epochs if self.kind != "cache" else 1
        return int(self.options.get("views" if self.kind == "cache" else "epochs", default))

    def config(self) -> TrainConfig | DistillConfig:
        """Return the run's configuration; a cache has none."""
        options = {"with_" if key == "with" else key: value for key, value in self.options.items()}
        return TrainConfig(**options) if self.kind == "teacher" else DistillConfig(**options)


@dataclass(frozen=True)
class Plan:
    """The jobs of a grid.

    Attributes:
        spec: The grid.
        jobs: All of them by name, in the order in which they are taken up: what others need comes first, and
            of the cells those of the first seed.
        tuned: Method -> the options that were chosen; methods that are not decided yet are missing.
    """

    spec: Spec
    jobs: dict[str, Job]
    tuned: Mapping[str, dict[str, Any]]

    def of(self, kind: Kind) -> list[Job]:
        """Return the jobs of a kind."""
        return [job for job in self.jobs.values() if job.kind == kind]

    def cells(self) -> list[Job]:
        """Return the cells in the order of the file: pairs, their methods, their seeds."""
        pairs = [(pair.teacher, pair.student) for pair in self.spec.pairs]
        methods = list(self.spec.methods)

        def position(cell: Job) -> tuple[int, int, int]:
            labels = cell.labels
            pair = pairs.index((labels["teacher"], labels["student"]))
            return pair, methods.index(labels["method"]), self.spec.seeds.index(labels["seed"])

        return sorted(self.of("cell"), key=position)

    def unneeded(self, finished: Collection[str]) -> set[str]:
        """Return the teachers and caches that are not there, and that nothing needs which is still to run.

        Args:
            finished: Names of the jobs that are finished.
        """
        wanted: set[str] = set()
        for job in reversed(self.jobs.values()):  # what others need comes first in their order
            if job.name not in finished and (job.kind in ("cell", "trial") or job.name in wanted):
                wanted.update(job.needs)
        made = {job.name for job in self.jobs.values() if job.kind in ("teacher", "cache")}
        return made - wanted - set(finished)

    def decided(self, job: Job) -> bool:
        """Whether the options of a job are final: those of cells may wait for the trials of their method."""
        tuning = self.spec.tuning
        if job.kind != "cell" or tuning is None:
            return True
        return job.labels["method"] not in tuning.trials or job.labels["method"] in self.tuned

    def trials_of(self, method: str) -> list[Job]:
        """Return the trials that decide on a method."""
        return [job for job in self.of("trial") if job.labels["method"] == method]

    def as_dict(self, source: str) -> dict[str, Any]:
        """Return the content of `grid.json`.

        Args:
            source: Path of the file that describes the grid.
        """

        def listed(jobs: list[Job]) -> list[dict[str, Any]]:
            return [
                {"name": job.name, **job.labels, "folder": job.name, "options": job.options} for job in jobs
            ]

        return {
            "version": 1,
            "name": self.spec.name,
            "spec": source,
            "teachers": listed(self.of("teacher")),
            "caches": listed(self.of("cache")),
            "trials": listed(self.of("trial")),
            "cells": listed(self.cells()),
        }


def expand(spec: Spec, out: str, tuned: Mapping[str, dict[str, Any]]) -> Plan:
    """Return all jobs of a grid.

    Args:
        spec: The grid.
        out: Its folder, as the runs are told of it.
        tuned: What tuning has chosen so far: method -> options.
    """
    jobs: list[Job] = []
    used = {pair.teacher for pair in spec.pairs}
    for teacher in spec.teachers.values():
        if teacher.name in used and teacher.train is not None:
            name = f"teachers/{safe(teacher.name)}"
            options = {**teacher.train, "out": f"{out}/{name}"}
            jobs.append(Job(name, "teacher", options, (), {"teacher": teacher.name}))
    if spec.cache is not None:
        shared = {key: value for key, value in spec.options.items() if key in _OF_CACHE}
        for each in spec.teachers:
            if each in used:
                options = {**_teacher(spec, out, each), **shared, **spec.cache}
                jobs.append(Job(_cache(each), "cache", options, _trained(spec, each), {"teacher": each}))
    if spec.tuning is not None:
        jobs += [
            _run(spec, out, spec.tuning.pair, method, seed, trial=number)
            for seed in spec.tuning.seeds
            for method, trials in spec.tuning.trials.items()
            for number in range(len(trials))
        ]
    jobs += [
        _run(spec, out, pair, method, seed, tuned=tuned.get(method, {}))
        for seed in spec.seeds
        for pair in spec.pairs
        for method in spec.methods
    ]
    return Plan(spec, {job.name: job for job in jobs}, dict(tuned))


def _run(
    spec: Spec,
    out: str,
    pair: Pair,
    method: str,
    seed: int,
    *,
    tuned: Mapping[str, Any] | None = None,
    trial: int | None = None,
) -> Job:
    """Return a cell, or a trial if it has a number."""
    layers = [spec.options, pair.options, spec.methods[method], pair.methods.get(method, {})]
    labels = {"teacher": pair.teacher, "student": pair.student, "method": method, "seed": seed}
    needs = list(_trained(spec, pair.teacher))
    place = f"{pair_name(pair.teacher, pair.student)}/{safe(method)}"
    tuning = spec.tuning
    if trial is None:
        name = f"cells/{place}/seed{seed}"
        if tuning is not None and method in tuning.trials:
            needs += [
                _trial_name(tuning.pair, method, number, each)
                for each in tuning.seeds
                for number in range(len(tuning.trials[method]))
            ]
        options = merged(*layers, tuned or {})
    else:
        assert tuning is not None, "a trial is one of the tuning"
        name = _trial_name(pair, method, trial, seed)
        labels["trial"] = trial
        options = merged(*layers, tuning.options, tuning.trials[method][trial])
        options["test"] = "never"
    if spec.cache is not None:
        options["views"] = spec.cache["views"]  # also if an earlier file had the cache hold more
        if not compares_features(options):  # which a cache has not: the teacher itself, on the same pixels
            needs.append(_cache(pair.teacher))
            options["cache"] = f"{out}/{_cache(pair.teacher)}"
    told = {**_teacher(spec, out, pair.teacher), "student": pair.student, **options, "seed": seed}
    told["out"] = f"{out}/{name}"
    return Job(name, "cell" if trial is None else "trial", told, tuple(needs), labels)


def compares_features(options: Mapping[str, Any]) -> bool:
    """Whether one of the methods looks at more of the teacher than its logits."""
    return any(_on_features(each["name"]) for each in (options["loss"], *options.get("with", [])))


@lru_cache
def _on_features(name: str) -> bool:
    return issubclass(losses.resolve(name), FeatureLoss)


def _trial_name(pair: Pair, method: str, trial: int, seed: int) -> str:
    return f"tuning/{pair_name(pair.teacher, pair.student)}/{safe(method)}/trial{trial}-seed{seed}"


def _trained(spec: Spec, teacher: str) -> tuple[str, ...]:
    return () if spec.teachers[teacher].train is None else (f"teachers/{safe(teacher)}",)


def _cache(teacher: str) -> str:
    return f"caches/{safe(teacher)}"


def _teacher(spec: Spec, out: str, teacher: str) -> dict[str, Any]:
    found = spec.teachers[teacher]
    return found.options if found.train is None else {"teacher": f"{out}/teachers/{safe(teacher)}"}

"""A run from its options to its result: what `cmkd train` and `cmkd distill` do."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from cmkd import data as datasets
from cmkd import models
from cmkd.data import Batch, ImageData, Loader
from cmkd.errors import InputError
from cmkd.losses.features import Outputs
from cmkd.teachers import LiveTeacher, TeacherReport
from cmkd.training import environment, features
from cmkd.training.config import DistillConfig, RunConfig, TrainConfig
from cmkd.training.judging import judge, keep_result, validator
from cmkd.training.loop import fit
from cmkd.training.objective import (
    Objective,
    build_added,
    build_loss,
    check_objective,
    made_up_batch,
    resolved_loss,
)
from cmkd.training.processes import Processes, open_accelerator, random_seed
from cmkd.training.progress import Progress
from cmkd.training.run_folder import RunFolder
from cmkd.training.teaching import open_teaching

logger = logging.getLogger(__name__)

#: Random streams of a run: the student's weights must not depend on what else was built before them.
INIT_STREAM, TRAIN_STREAM = 0, 1


def train(config: TrainConfig, *, progress: bool = True) -> RunFolder:
    """Train a network on labels alone.

    Args:
        config: The run's options.
        progress: Whether to show a bar and log the epochs.

    Returns:
        The finished run's folder. A finished run is returned as it is.

    Raises:
        InputError: The options cannot be met.
        Interrupted: The run was asked to stop; the same call goes on.
    """
    return _run(config, config.model, progress=progress)


def distill(
    config: DistillConfig,
    *,
    progress: bool = True,
    on_teacher: Callable[[TeacherReport], None] | None = None,
) -> RunFolder:
    """Distil a teacher into a student.

    Args:
        config: The run's options.
        progress: Whether to show a bar and log the epochs.
        on_teacher: Called with what was found out about the teacher, before training.

    Returns:
        The finished run's folder. A finished run is returned as it is.

    Raises:
        InputError: The options cannot be met.
        Interrupted: The run was asked to stop; the same call goes on.
    """
    return _run(config, config.student, progress=progress, on_teacher=on_teacher)


def _run(
    config: TrainConfig | DistillConfig,
    network: str,
    *,
    progress: bool,
    on_teacher: Callable[[TeacherReport], None] | None = None,
) -> RunFolder:
    folder = RunFolder(config.out or Path("runs") / config.name())
    accelerator, precision = open_accelerator(config.precision, cpu=config.cpu)
    processes = Processes(accelerator)
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":  # `accelerate launch --use_fsdp`
        config = replace(config, fsdp=True)
    with processes.watched():
        return _run_together(
            config,
            network,
            folder,
            accelerator,
            precision,
            processes,
            progress=progress,
            on_teacher=on_teacher,
        )


def _run_together(
    config: TrainConfig | DistillConfig,
    network: str,
    folder: RunFolder,
    accelerator: Accelerator,
    precision: str,
    processes: Processes,
    *,
    progress: bool,
    on_teacher: Callable[[TeacherReport], None] | None,
) -> RunFolder:
    device = accelerator.device
    # Everything that can be wrong with the options is found before the folder is touched.
    data = _data(config, processes)
    with processes.together():
        torch.manual_seed(2 * config.seed + INIT_STREAM)
        student = models.build(network, data.num_classes)
        models.check_logits(
            student, f"network {network}", num_classes=data.num_classes, image_size=data.image_size
        )
        unused_parameters = processes.count > 1 and models.has_unused_parameters(student, data.image_size)
        student = student.to(device).to(memory_format=torch.channels_last)
        teaching, objective = None, Objective(label_smoothing=config.label_smoothing)
        if isinstance(config, DistillConfig):
            config, objective = _objective(config)
            objective.to(device)
            features.require_possible(objective, config)
            if not objective.feature_losses:
                check_objective(objective, *made_up_batch(data.num_classes, device))
            config, teaching = open_teaching(config, data, precision=precision, device=device)
        live, report = (teaching.live, teaching.report) if teaching else (None, None)
        loaders = _loaders(data, config, device, processes)
        layers: list[str] = []
        answers: Callable[[Batch], Tensor | Outputs] | None = None
        if teaching and objective.reads_teacher:
            answers = teaching.teacher
        if objective.feature_losses:
            assert isinstance(live, LiveTeacher), "caches and ensembles have been refused"
            layers, answers = features.prepare(
                objective, student, live, loaders["train"], data, accelerator=accelerator, seed=config.seed
            )
        objective.share_batches(processes)
    processes.same_buffers(objective)  # each has measured the teacher on its own part of the first batch

    with contextlib.ExitStack() as held:
        with processes.together():
            if processes.is_main:
                held.enter_context(folder.claim(config.identity(), config.options()))
        if processes.from_main(folder.finished):
            logger.info("%s is finished; showing what it found", folder.path)
            return folder
        validate = None
        if "validation" in loaders:
            validate, teacher_accuracy = validator(loaders["validation"], live, accelerator, processes)
            if report is not None:
                report.accuracy = teacher_accuracy
        with processes.together():
            if processes.is_main:
                if report is not None:
                    folder.refuse_other_teacher(report.source, report.sha256, report.logits)
                    folder.write_json("teacher.json", report.as_dict())
                    if on_teacher is not None:
                        on_teacher(report)
                if objective.feature_losses:
                    features.keep_layers(objective, folder)
                _keep_environment(folder, environment.describe(device, precision, processes.count))
        torch.manual_seed(random_seed(2 * config.seed + TRAIN_STREAM, processes.rank))
        student = fit(
            student,
            objective,
            loaders["train"],
            config=config,
            folder=folder,
            accelerator=accelerator,
            processes=processes,
            unused_parameters=unused_parameters,
            layers=layers,
            teacher=answers,
            validate=validate,
            progress=Progress(folder.path.name, enabled=progress and processes.is_main),
        )
        result = judge(student, data, loaders["test"], live, processes)
        bad_images = _bad_images(loaders, processes)
        with processes.together():
            if processes.is_main:
                keep_result(folder, result, student, network, data, bad_images)
    return folder


def _objective(config: DistillConfig) -> tuple[DistillConfig, Objective]:
    """Return the objective, and the options with the defaults of its losses filled in."""
    loss, added = build_loss(config.loss), [build_added(spec) for spec in config.with_]
    config = replace(
        config,
        loss=resolved_loss(config.loss, loss),
        with_=[
            {"weight": factor, **resolved_loss(spec, each)}
            for spec, (each, factor) in zip(config.with_, added, strict=True)
        ],
    )
    return config, Objective(
        loss, added=added, task_weight=config.task_weight, label_smoothing=config.label_smoothing
    )


def _data(config: RunConfig, processes: Processes) -> ImageData:
    """Open the data set, first in the main process: what it downloads or indexes is there for the others."""

    def load() -> ImageData:
        return datasets.load(
            config.data,
            config.data_root,
            image_size=config.image_size,
            bad_images=config.bad_images,
            image_column=config.image_column,
            label_column=config.label_column,
        )

    data: ImageData | None = None
    with processes.together():
        data = load() if processes.is_main else None
    with processes.together():
        data = load() if data is None else data
    assert data is not None
    return data


def _loaders(
    data: ImageData, config: RunConfig, device: torch.device, processes: Processes
) -> dict[str, Loader]:
    """Return the loaders `train`, `test` and, if a part is held out, `validation`."""
    common: dict[str, Any] = {
        "mean": data.mean,
        "std": data.std,
        "image_size": data.image_size,
        "device": device,
        "workers": config.workers,
        "batch_size": config.batch_size,
        "rank": processes.rank,
        "world_size": processes.count,
    }
    train_indices, validation_indices = None, None
    if config.validation > 0:
        train_indices, validation_indices = datasets.split(data.train.targets, config.validation, config.seed)
        if len(validation_indices) == 0:
            raise InputError(
                f"--validation {config.validation} takes none of the {len(train_indices)} training images of "
                f"{data.name}: every class needs at least 2 images for that; or take --validation 0."
            )
    loaders = {
        "train": Loader(
            data.train,
            indices=train_indices,
            augment=config.augment or data.augment,
            seed=config.seed,
            augment_seed=config.augment_seed,
            views=config.views,
            shuffle=True,
            drop_last=True,
            **common,
        ),
        "test": Loader(data.test, **common),
    }
    if validation_indices is not None:
        loaders["validation"] = Loader(data.train, indices=validation_indices, **common)
    return loaders


def _bad_images(loaders: dict[str, Loader], processes: Processes) -> dict[str, dict[int, str]]:
    """Return by part what any process could not decode, in the main process."""
    found: dict[str, dict[int, str]] = {}
    for own in processes.gather({part: loader.bad_images for part, loader in loaders.items()}):
        for part, bad in own.items():
            if bad:
                found.setdefault(part, {}).update(bad)
    return found


def _keep_environment(folder: RunFolder, now: dict[str, Any]) -> None:
    """Write `environment.json`; refuse to go on in another arithmetic than the run began with."""
    if (folder.path / "environment.json").exists():
        before = folder.read_json("environment.json")
        for key in ("device", "precision"):
            if before[key] != now[key]:
                raise InputError(
                    f"{folder.path} was begun with {key} {before[key]}, now it is {now[key]}; continue it "
                    "as it was begun, or give another --out."
                )
        changed = [key for key in now if key != "revision" and before.get(key) != now[key]]
        if changed:
            named = ", ".join(f"{key} ({before.get(key)}, now {now[key]})" for key in changed)
            logger.warning("continuing with another %s: the bits may differ from an unbroken run's", named)
    folder.write_json("environment.json", now)

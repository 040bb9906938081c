"""A run from its options to its result: what `cmkd train` and `cmkd distill` do."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from cmkd import models
from cmkd.data import Batch
from cmkd.losses.features import Outputs
from cmkd.teachers import LiveTeacher, TeacherReport
from cmkd.training import allocator, environment, features
from cmkd.training.building import build_objective, check_objective, made_up_batch
from cmkd.training.config import DistillConfig, TrainConfig
from cmkd.training.images import bad_images_by_part, open_data, open_loaders
from cmkd.training.judging import judge, judge_of, keep_result
from cmkd.training.live import open_live
from cmkd.training.loop import fit
from cmkd.training.objective import Objective
from cmkd.training.processes import Processes, open_accelerator, random_seed
from cmkd.training.progress import Progress
from cmkd.training.run_folder import RunFolder
from cmkd.training.starting import open_start
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
    return _run(config, progress=progress)


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
    return _run(config, progress=progress, on_teacher=on_teacher)


def _run(
    config: TrainConfig | DistillConfig,
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
            folder,
            accelerator,
            precision,
            processes,
            progress=progress,
            on_teacher=on_teacher,
        )


def _run_together(
    config: TrainConfig | DistillConfig,
    folder: RunFolder,
    accelerator: Accelerator,
    precision: str,
    processes: Processes,
    *,
    progress: bool,
    on_teacher: Callable[[TeacherReport], None] | None,
) -> RunFolder:
    device = accelerator.device
    if device.type == "cpu":
        allocator.keep_freed_memory()
    # Everything that can be wrong with the options is found before the folder is touched.
    if isinstance(config, DistillConfig) and config.cache is not None and config.views is None:
        config = replace(config, views=_views_begun_with(folder, processes))
    data = open_data(config, processes)
    with processes.together():
        live_view = open_live(config.tracker, folder) if processes.is_main else None
        torch.manual_seed(2 * config.seed + INIT_STREAM)
        network, _ = config.network
        student, data = open_start(config, data)
        unused_parameters = processes.count > 1 and models.has_unused_parameters(student, data.image_size)
        student = student.to(device).to(memory_format=torch.channels_last)
        teaching, objective = None, Objective(label_smoothing=config.label_smoothing)
        if isinstance(config, DistillConfig):
            config, objective = build_objective(config)
            objective.to(device)
            features.require_possible(objective, config)
            if not objective.feature_losses:
                check_objective(objective, *made_up_batch(data.num_classes, device))
            config, teaching = open_teaching(config, data, precision=precision, device=device)
        live, report = (teaching.live, teaching.report) if teaching else (None, None)
        loaders = open_loaders(data, config, device, processes)
        layers: list[str] = []
        answers: Callable[[Batch], Tensor | Outputs] | None = None
        if teaching and objective.reads_teacher:
            answers = teaching.teacher
        if objective.feature_losses:
            assert isinstance(live, LiveTeacher), "caches and ensembles have been refused"
            network = features.adapt_student(objective, student, network, live, data, seed=config.seed)
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
        judges = {}
        if "validation" in loaders:
            judges["validation"], accuracy = judge_of(loaders["validation"], live, accelerator, processes)
            if report is not None:
                report.accuracy = accuracy
        if config.test == "each":
            judges["test"], _ = judge_of(loaders["test"], live, accelerator, processes)
        with processes.together():
            if processes.is_main:
                if report is not None:
                    folder.refuse_other_teacher(report.source, report.sha256, report.logits)
                    folder.write_json("teacher.json", report.as_dict())
                    if on_teacher is not None:
                        on_teacher(report)
                if objective.feature_losses:
                    features.keep_layers(objective, folder)
                environment.keep(folder, environment.describe(device, precision, processes.count))
                if live_view is not None:
                    live_view.start(config.options())
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
            judges=judges,
            progress=Progress(folder.path.name, enabled=progress and processes.is_main, live=live_view),
        )
        result = judge(student, data, loaders["test"], live, processes) if "test" in loaders else {}
        bad_images = bad_images_by_part(loaders, processes)
        with processes.together():
            if processes.is_main:
                keep_result(folder, result, student, network, data, bad_images)
    return folder


def _views_begun_with(folder: RunFolder, processes: Processes) -> int | None:
    """Return the views of the run in a folder, whose cache may have got more since; None in a new one."""
    views = None
    with processes.together():
        if processes.is_main and (folder.path / "config.yaml").exists():
            views = folder.read_config().get("views")
    return processes.from_main(views)

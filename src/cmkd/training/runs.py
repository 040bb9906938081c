"""A run from its options to its result: what `cmkd train` and `cmkd distill` do."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor, nn

from cmkd import data as datasets
from cmkd import models
from cmkd.data import Batch, ImageData, Loader
from cmkd.errors import InputError
from cmkd.evaluation import collect_logits, cpu_latency, evaluate_logits, on_images
from cmkd.teachers import LiveTeacher, TeacherReport
from cmkd.training import environment
from cmkd.training.config import DistillConfig, RunConfig, TrainConfig
from cmkd.training.loop import fit
from cmkd.training.objective import Objective, build_loss, check_objective, resolved_loss
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
    accelerator, precision = _accelerator(config)
    device = accelerator.device

    # Everything that can be wrong with the options is found before the folder is touched.
    data = datasets.load(
        config.data,
        config.data_root,
        image_size=config.image_size,
        bad_images=config.bad_images,
        image_column=config.image_column,
        label_column=config.label_column,
    )
    torch.manual_seed(2 * config.seed + INIT_STREAM)
    student = models.build(network, data.num_classes)
    models.check_logits(
        student, f"network {network}", num_classes=data.num_classes, image_size=data.image_size
    )
    student = student.to(device).to(memory_format=torch.channels_last)
    teaching, objective = None, Objective(label_smoothing=config.label_smoothing)
    if isinstance(config, DistillConfig):
        loss = build_loss(config.loss)
        config = replace(config, loss=resolved_loss(config.loss, loss))
        objective = Objective(
            loss, task_weight=config.task_weight, label_smoothing=config.label_smoothing
        ).to(device)
        check_objective(objective, data.num_classes, device)
        config, teaching = open_teaching(config, data, precision=precision, device=device)
    live, report = (teaching.live, teaching.report) if teaching else (None, None)
    loaders = _loaders(data, config, accelerator)

    with folder.claim(config.identity(), config.options()):
        if folder.finished:
            logger.info("%s is finished; showing what it found", folder.path)
            return folder
        validate = None
        if "validation" in loaders:
            validate, teacher_accuracy = _validator(loaders["validation"], live, accelerator)
            if report is not None:
                report.accuracy = teacher_accuracy
        if report is not None:
            folder.refuse_other_teacher(report.source, report.sha256, report.logits)
            folder.write_json("teacher.json", report.as_dict())
            if on_teacher is not None:
                on_teacher(report)
        _keep_environment(folder, environment.describe(device, precision))
        torch.manual_seed(2 * config.seed + TRAIN_STREAM)
        student = fit(
            student,
            objective,
            loaders["train"],
            config=config,
            folder=folder,
            accelerator=accelerator,
            teacher=teaching.teacher if teaching and objective.reads_teacher else None,
            validate=validate,
            progress=Progress(folder.path.name, enabled=progress),
        )
        # Back to the network's own forward, so that everything is measured in float32.
        student = accelerator.unwrap_model(student, keep_fp32_wrapper=False)
        _finish(folder, student, network, data, loaders, live)
    return folder


def _accelerator(config: RunConfig) -> tuple[Accelerator, str]:
    device = PartialState(cpu=config.cpu).device
    precision = environment.arithmetic(config.precision, device)
    if PartialState().num_processes > 1:
        raise InputError(
            f"this version trains in one process, it was started in {PartialState().num_processes}; "
            "start it without a launcher."
        )
    mixed = "no" if precision == "fp32" else precision
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != mixed:
        AcceleratorState._reset_state()  # Accelerate has one precision per process, which runs may share
    return Accelerator(cpu=config.cpu, mixed_precision=mixed), precision


def _loaders(data: ImageData, config: RunConfig, accelerator: Accelerator) -> dict[str, Loader]:
    """Return the loaders `train`, `test` and, if a part is held out, `validation`."""
    common: dict[str, Any] = {
        "mean": data.mean,
        "std": data.std,
        "image_size": data.image_size,
        "device": accelerator.device,
        "workers": config.workers,
        "batch_size": config.batch_size,
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


def _validator(
    loader: Loader, teacher: LiveTeacher | None, accelerator: Accelerator
) -> tuple[Callable[[nn.Module], dict[str, float]], float | None]:
    """Return the function that judges a network on the validation part, and the teacher's accuracy there."""
    teacher_logits, accuracy = None, None
    if teacher is not None:
        # The validation images are not augmented: the teacher says the same in every epoch.
        teacher_logits, targets = _collect(teacher, loader, accelerator)
        accuracy = evaluate_logits(teacher_logits, targets, None)["accuracy"]

    def validate(network: nn.Module) -> dict[str, float]:
        logits, targets = _collect(on_images(network), loader, accelerator)
        return evaluate_logits(logits, targets, teacher_logits)

    return validate, accuracy


def _collect(
    network: Callable[[Batch], Tensor], loader: Loader, accelerator: Accelerator
) -> tuple[Tensor, Tensor]:
    with accelerator.autocast():
        return collect_logits(network, loader.epoch(0))


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


def _finish(
    folder: RunFolder,
    student: nn.Module,
    network: str,
    data: ImageData,
    loaders: dict[str, Loader],
    teacher: LiveTeacher | None,
) -> None:
    """Look at the test set, once, and write the network and the result; `result.json` comes last."""
    logits, targets = collect_logits(on_images(student), loaders["test"].epoch(0))
    result: dict[str, Any] = {"images": len(targets)}
    if teacher is not None:
        teacher_logits, _ = collect_logits(teacher, loaders["test"].epoch(0))
        result["teacher"] = evaluate_logits(teacher_logits, targets, None)
        result["teacher"] |= cpu_latency(teacher.network, data.image_size)
        result["test"] = evaluate_logits(logits, targets, teacher_logits)
    else:
        result["test"] = evaluate_logits(logits, targets, None)
    rows = folder.read_metrics()
    judged = [row for row in rows if "validation" in row]
    if judged:
        best = max(judged, key=lambda row: row["validation"]["accuracy"])
        result["best_validation"] = {"epoch": best["epoch"], "accuracy": best["validation"]["accuracy"]}
        result["last_validation"] = judged[-1]["validation"]
    result["parameters"] = models.count_parameters(student)
    result["train_seconds"] = round(sum(row["seconds"] for row in rows), 1)
    result |= cpu_latency(student, data.image_size)

    bad_images = {part: loader.bad_images for part, loader in loaders.items() if loader.bad_images}
    if bad_images:
        result["bad_images"] = {part: len(bad) for part, bad in bad_images.items()}
        folder.write_json("bad_images.json", bad_images)

    models.save_weights(student, folder.path / "student.safetensors")
    folder.write_json(
        "model.json",
        {
            "network": network,
            "num_classes": data.num_classes,
            "classes": list(data.classes),
            "mean": list(data.mean),
            "std": list(data.std),
            "image_size": data.image_size,
            "data": data.name,
        },
    )
    folder.write_json("result.json", result)

"""What losses on features need before training: layers, the teacher's features, and parts to learn."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import nn

from cmkd.data import Batch, ImageData, Loader
from cmkd.errors import InputError
from cmkd.losses.features import FeatureLoss, Outputs
from cmkd.models import check_logits, reuse_classifier
from cmkd.models.capture import Capture
from cmkd.models.layers import FeatureLayers, feature_layers
from cmkd.teachers import LiveTeacher
from cmkd.training.building import check_objective, named_if_it_fails
from cmkd.training.config import DistillConfig
from cmkd.training.objective import Objective
from cmkd.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


def require_possible(objective: Objective, config: DistillConfig) -> None:
    """Refuse what losses on features cannot go with.

    Raises:
        InputError: There is one, and the run has a teacher cache or several teachers, or is compiled or
            spread over processes.
    """
    if not objective.feature_losses:
        return
    name = type(objective.feature_losses[0]).__name__.removesuffix("Loss")
    if config.cache is not None:
        raise InputError(
            f"{name} compares features, and a teacher cache holds logits alone: leave --cache out, and give "
            "--teacher."
        )
    if isinstance(config.teacher, list):
        raise InputError(
            f"{name} compares the features of one teacher, and --teacher names {len(config.teacher)}: take "
            "one of them, or methods on logits."
        )
    if config.compile is not None or config.fsdp:
        option = "--fsdp" if config.fsdp else "--compile"
        raise InputError(
            f"{name} looks into the networks by hooks, which {option} has no place for; leave it out."
        )


def adapt_student(
    objective: Objective,
    student: nn.Module,
    network: str,
    teacher: LiveTeacher,
    data: ImageData,
    *,
    seed: int,
) -> str:
    """Give the student the end that a loss wants.

    Args:
        objective: The objective.
        student: Network to train, changed in place.
        network: Its name.
        teacher: The teacher.
        data: The data set.
        seed: Of the weights of its new parts.

    Returns:
        The name that `cmkd.models.build` makes the student from as it is now.

    Raises:
        InputError: Student or teacher do not allow it.
    """
    wanting = [loss for loss in objective.feature_losses if loss.reuses_classifier]
    if not wanting:
        return network
    named = wanting[0].teacher_layers
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        end = reuse_classifier(
            student,
            teacher.network,
            layer=None if named is None else named[0],
            image_size=teacher.image_size or data.image_size,
            student_image_size=data.image_size,
        )
    student.to(memory_format=torch.channels_last)
    check_logits(
        student,
        f"network {network} with its teacher's classifier",
        num_classes=data.num_classes,
        image_size=data.image_size,
    )
    return f"{end}:{network}"


def prepare(
    objective: Objective,
    student: nn.Module,
    teacher: LiveTeacher,
    loader: Loader,
    data: ImageData,
    *,
    accelerator: Accelerator,
    seed: int,
) -> tuple[list[str], Callable[[Batch], Outputs]]:
    """Choose the layers, make what the losses have to learn, and try the objective on the first batch.

    Args:
        objective: The objective, with losses on features; on the accelerator's device afterwards.
        student: Network to train.
        teacher: The teacher.
        loader: Training batches.
        data: The data set.
        accelerator: Device and precision.
        seed: Of the weights that the losses start with.

    Returns:
        The layers of the student that are compared; and the teacher, which maps a batch to its `Outputs`.

    Raises:
        InputError: Layers cannot be found, or a loss fails.
    """
    losses = objective.feature_losses
    size = teacher.image_size or data.image_size
    if any(loss.student_layers is None or loss.teacher_layers is None for loss in losses):
        layers = [_layers(student, data.image_size), _layers(teacher.network, size)]
        for loss in losses:
            with named_if_it_fails(type(loss), "to choose its layers"):
                loss.choose_layers(*layers)
    of_student, of_teacher = _union(losses, "student_layers"), _union(losses, "teacher_layers")
    see_student = Capture(student, of_student)
    see_teacher = Capture(teacher.network, of_teacher, call=teacher)
    batch = next(loader.epoch(0))
    student.eval()
    with torch.no_grad(), accelerator.autocast():
        answered, taught = see_student(batch.images), see_teacher(batch)
    _require_channels_first("student", answered)
    _require_channels_first("teacher", taught)
    for loss in losses:
        classifier = None
        if loss.needs_classifier:
            name = _layers(teacher.network, size).classifier
            classifier = teacher.network.get_submodule(name)
        with named_if_it_fails(type(loss), "to make its parts from a trial batch"):
            loss.build(
                answered,
                taught,
                num_samples=len(data.train),
                trained_on=loader.indices,
                targets=loader.targets,
                classifier=classifier,
                seed=seed,
            )
    check_objective(objective, answered, taught, batch.targets, batch.indices)
    return of_student, see_teacher


def keep_layers(objective: Objective, folder: RunFolder) -> None:
    """Log which layers the losses compare, and keep them as `layers.json`: pairs by the name of the term."""
    pairs = {
        name: list(zip(loss.student_layers or [], loss.teacher_layers or [], strict=True))
        for name, loss in objective.terms()
        if isinstance(loss, FeatureLoss)
    }
    for name, compared in pairs.items():
        said = ", ".join(f"{of_student} with {of_teacher}" for of_student, of_teacher in compared)
        logger.info("%s compares %s", name, said)
    folder.write_json("layers.json", pairs)


def _require_channels_first(who: str, outputs: Outputs) -> None:
    for layer, x in outputs.features.items():
        # The images are square, and so are maps of them.
        if x.ndim == 4 and x.shape[1] == x.shape[2] != x.shape[3]:
            raise InputError(
                f"layer {layer!r} of the {who} gives {tuple(x.shape)}, with the channels last: name it "
                f"'{layer}:channels_last'."
            )


def _layers(network: nn.Module, image_size: int) -> FeatureLayers:
    try:
        return feature_layers(network, image_size=image_size)
    except InputError as error:
        raise InputError(
            f"{error} They are the options student_layers and teacher_layers of the method."
        ) from error


def _union(losses: list[FeatureLoss], side: str) -> list[str]:
    return list(dict.fromkeys(layer for loss in losses for layer in getattr(loss, side)))

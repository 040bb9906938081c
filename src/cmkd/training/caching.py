"""Writing a teacher's logits down: what `cmkd cache` does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cmkd import launcher
from cmkd.data import ImageData, Loader, TensorImages
from cmkd.data.augment import require_known
from cmkd.data.fingerprint import augmentation_hash, fingerprint
from cmkd.files import at_home
from cmkd.teachers import EnsembleTeacher, LiveTeacher, TeacherReport, open_teachers
from cmkd.teachers.cache_format import Manifest, read_manifest, rows_per_shard
from cmkd.teachers.cache_writing import write_cache
from cmkd.training import environment
from cmkd.training.cache_config import CacheConfig
from cmkd.training.config import DistillConfig
from cmkd.training.images import load_images
from cmkd.training.processes import process_state


def cache(
    config: CacheConfig,
    *,
    on_teacher: Callable[[TeacherReport], None] | None = None,
    on_shard: Callable[[int, int], None] | None = None,
) -> Manifest | None:
    """Write a teacher's logits for all training images of a data set.

    Several processes, told apart by the variables RANK and WORLD_SIZE that launchers set, share the work.

    Args:
        config: The options.
        on_teacher: Called with what was found out about the teacher, before it is run.
        on_shard: Called after each shard with the images looked at, and to look at, by this process.

    Returns:
        What the cache holds; None if other processes are still writing their part.

    Raises:
        InputError: The options cannot be met, or the folder holds something else or cannot be written.
    """
    rank, world_size, device = _process(config.cpu)
    precision = environment.arithmetic(config.precision, device)
    path = at_home(config.path)
    data = load_images(config)
    augment = config.augment or data.augment
    require_known(augment)
    teacher, report = open_network(config, data, device)
    identity = cache_identity(
        data, augment=augment, augment_seed=config.augment_seed, precision=precision, report=report
    )
    planned = Manifest(
        identity={**identity, "dtype": config.dtype},
        teacher=report.as_dict(),
        shard_rows=rows_per_shard(len(data.train)),
    )
    if on_teacher is not None:
        on_teacher(report)

    loader = partial(
        Loader,
        data.train.to(device) if isinstance(data.train, TensorImages) else data.train,
        mean=data.mean,
        std=data.std,
        image_size=data.image_size,
        batch_size=config.batch_size,
        augment=augment,
        seed=config.augment_seed,
        device=device,
        workers=config.workers,
    )

    def logits_of(view: int, indices: Tensor) -> Iterator[Tensor]:
        for batch in loader(indices=indices).epoch(view):
            with autocast(precision, device):
                logits = teacher(batch)
            yield logits

    whole = write_cache(
        path,
        planned,
        logits_of,
        views=config.views,
        rank=rank,
        world_size=world_size,
        on_shard=on_shard,
    )
    return read_manifest(path) if whole else None


def open_network(
    config: DistillConfig | CacheConfig, data: ImageData, device: torch.device
) -> tuple[LiveTeacher | EnsembleTeacher, TeacherReport]:
    """Open what the options name; see `open_teachers`."""
    assert config.teacher is not None
    return open_teachers(
        config.teacher,
        data,
        weights=config.teacher_weights,
        mean=config.teacher_mean,
        std=config.teacher_std,
        image_size=config.teacher_image_size,
        device=device,
    )


def cache_identity(
    data: ImageData, *, augment: str | None, augment_seed: int, precision: str, report: TeacherReport | None
) -> dict[str, Any]:
    """Return what cached logits depend on.

    Args:
        data: The data set.
        augment: Augmentation; the data set's own if None.
        augment_seed: Its seed.
        precision: Arithmetic of the teacher.
        report: What is known of the teacher; None leaves it out.

    Returns:
        The keys of `Manifest.identity`, but for the type that the logits are stored in.
    """
    augment = augment or data.augment
    of_teacher: dict[str, Any] = {}
    if report is not None:
        of_teacher = {"teacher": report.sha256, "mean": report.mean, "std": report.std}
        of_teacher["teacher_image_size"] = report.image_size
    return {
        **of_teacher,
        "data": data.name,
        "fingerprint": fingerprint(data.train),
        "samples": len(data.train),
        "classes": data.num_classes,
        "image_size": data.image_size,
        "augment": augment,
        "augment_hash": augmentation_hash(augment),
        "augment_seed": augment_seed,
        "precision": precision,
    }


def _process(cpu: bool) -> tuple[int, int, torch.device]:
    """Return number and count of the processes, and this one's device; they never talk to each other."""
    world_size = launcher.world_size()
    if world_size == 1:
        return 0, 1, process_state(cpu=cpu).device
    device = torch.device("cpu")
    # PyTorch 2.6 raises where there is none to name.
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is not None and not cpu:
        device = torch.device(accelerator.type, launcher.number("LOCAL_RANK"))
    return launcher.number(), world_size, device


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which a network is run in this precision."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)

"""What a student learns from: a network that runs beside it, or the logits that one has left in a cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cmkd.data import Batch, ImageData
from cmkd.errors import InputError
from cmkd.teachers import CachedTeacher, EnsembleTeacher, LiveTeacher, TeacherReport
from cmkd.teachers.cache_format import differences
from cmkd.training.caching import cache_identity, open_network
from cmkd.training.config import DistillConfig


@dataclass(frozen=True)
class Teaching:
    """The teacher of a run.

    Attributes:
        teacher: Maps a training batch to logits `(B, C)`.
        live: The network itself, or several, for images that are not in the cache; None if only the logits
            are there.
        report: What is known of it.
    """

    teacher: Callable[[Batch], Tensor]
    live: LiveTeacher | EnsembleTeacher | None
    report: TeacherReport


def open_teaching(
    config: DistillConfig, data: ImageData, *, precision: str, device: torch.device
) -> tuple[DistillConfig, Teaching]:
    """Open the teacher of a run.

    Args:
        config: The run's options.
        data: Its data.
        precision: Its arithmetic, as decided.
        device: Its device.

    Returns:
        The options, with `views` decided if there is a cache; and the teacher.

    Raises:
        InputError: The network or the cache cannot be used, or the cache belongs to something else.
    """
    network = None if config.teacher is None else open_network(config, data, device)
    live, report = network or (None, None)
    if config.cache is None:
        assert network is not None, "the configuration has one of the two"
        return config, Teaching(network[0], *network)

    cached = CachedTeacher(config.cache, views=config.views)
    wanted = cache_identity(
        data,
        augment=config.augment,
        augment_seed=config.seed if config.augment_seed is None else config.augment_seed,
        precision=precision,
        report=report,
    )
    if differing := differences(cached.manifest.identity, wanted):
        raise InputError(
            f"teacher cache {config.cache} does not fit this run ({'; '.join(differing)}). Give the run what "
            "the cache has, or write another cache by `cmkd cache`."
        )
    if report is None:
        report = _report(cached)
    report.logits = f"cached in {cached.manifest.dtype}"
    return replace(config, views=cached.views), Teaching(cached, live, report)


def _report(cached: CachedTeacher) -> TeacherReport:
    """Return what a cache knows of its teacher."""
    try:
        return TeacherReport(**cached.manifest.teacher)
    except TypeError as error:
        raise InputError(
            f"the manifest of teacher cache {cached.path} does not describe its teacher ({error}); give "
            "--teacher, or write the cache anew."
        ) from None

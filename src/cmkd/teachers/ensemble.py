"""Several teachers that answer as one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cmkd.data import Batch, ImageData
from cmkd.errors import InputError
from cmkd.teachers.live import LiveTeacher
from cmkd.teachers.opening import TeacherReport, open_teacher, run_folder


class EnsembleTeacher(nn.Module):
    """Teachers that answer a batch with the mean of their logits.

    The softmax of a mean of logits is the normalised geometric mean of the softmaxes, at every temperature;
    Hinton et al. 2015 (arXiv 1503.02531, section 1) name it beside the arithmetic one as what a student of an
    ensemble may learn. It is taken because losses want logits: an arithmetic mean of distributions would have
    to settle a temperature before the loss does, and could not be cached for all of them. A member whose
    logits are spread wider has more to say.

    Args:
        members: The teachers, each with its own normalisation and image size.

    Example:
        >>> members = [LiveTeacher(nn.Flatten(), mean=[mean], std=[1.0]) for mean in (0.0, 0.0)]
        >>> images = torch.tensor([[1.0, 3.0]]).view(1, 1, 1, 2)
        >>> EnsembleTeacher(members)(Batch(images, torch.zeros(1), torch.zeros(1), 0))
        tensor([[1., 3.]])
    """

    def __init__(self, members: Sequence[LiveTeacher]) -> None:
        super().__init__()
        self._members = nn.ModuleList(members)

    @property
    def members(self) -> tuple[LiveTeacher, ...]:
        """The teachers, in their order."""
        return tuple(self._members)  # type: ignore[arg-type]

    def forward(self, batch: Batch) -> Tensor:
        """Return logits `(B, C)` in float32."""
        return torch.stack([member(batch) for member in self._members]).mean(0)


def open_teachers(
    teacher: str | Sequence[str],
    data: ImageData,
    *,
    weights: str | Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | None = None,
    device: torch.device | str = "cpu",
) -> tuple[LiveTeacher | EnsembleTeacher, TeacherReport]:
    """Open one teacher, or several as one.

    Args:
        teacher: Run folders and networks by name, as for `open_teacher`.
        data: The data set whose images and classes they will see.
        weights: One for each network by name, in their order; a single value serves all of these.
        mean: Mean that all of them expect, overriding what is known of them.
        std: Standard deviation that goes with `mean`.
        image_size: Side in pixels of the images that all of them expect, likewise.
        device: Where they shall run.

    Returns:
        The teacher, and what is known of it.

    Raises:
        InputError: One of them cannot be used, two of them are the same, or the weights do not fit them.
    """
    names = [teacher] if isinstance(teacher, str) else list(teacher)
    opened = [
        open_teacher(name, data, weights=own, mean=mean, std=std, image_size=image_size, device=device)
        for name, own in zip(names, _weights_of(names, weights), strict=True)
    ]
    if len(opened) == 1:
        return opened[0]
    hashes: dict[str, str] = {}
    for name, (_, report) in zip(names, opened, strict=True):
        if report.sha256 in hashes:
            raise InputError(
                f"--teacher {hashes[report.sha256]} and {name} have the same weights; leave one of them out."
            )
        hashes[report.sha256] = name
    members, reports = zip(*opened, strict=True)
    return EnsembleTeacher(members), _in_common(reports, [member.image_size for member in members])


def _weights_of(names: Sequence[str], weights: str | Sequence[str] | None) -> list[str | None]:
    """Return what `open_teacher` is given for each: a run folder among several has its own weights."""
    if weights is None:
        return [None] * len(names)
    if len(names) == 1 and isinstance(weights, str):
        return [weights]
    named = [not run_folder(name).is_dir() for name in names]
    given = [weights] * max(1, sum(named)) if isinstance(weights, str) else list(weights)
    if len(given) != sum(named):
        raise InputError(
            f"--teacher_weights {given} is for {len(given)} networks, but {sum(named)} of the teachers "
            f"{names} are given by name: give one for each of these in their order; run folders have theirs."
        )
    left = iter(given)
    return [next(left) if by_name else None for by_name in named]


def _in_common(reports: Sequence[TeacherReport], sizes: list[int | None]) -> TeacherReport:
    """Return the report on an ensemble; its mean and std are those of the members, one after the other."""
    return TeacherReport(
        network=" + ".join(report.network for report in reports),
        source=" + ".join(report.source for report in reports),
        parameters=sum(report.parameters for report in reports),
        sha256=hashlib.sha256("".join(report.sha256 for report in reports).encode()).hexdigest(),
        mean=[value for report in reports for value in report.mean],
        std=[value for report in reports for value in report.std],
        normalization=" + ".join(report.normalization for report in reports),
        image_size=sizes if any(sizes) else None,
        members=[report.as_dict() for report in reports],
    )

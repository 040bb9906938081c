"""Accuracy on corrupted images, of a student beside its teacher."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from cmkd.data import Batch, ImageData, Loader
from cmkd.data.random import Stream, random_bits
from cmkd.errors import InputError, unknown_name
from cmkd.evaluation.corruptions import GROUPS, NAMES, SEVERITIES, corrupt
from cmkd.evaluation.corruptions.parameters import table_for
from cmkd.evaluation.intervals import share

logger = logging.getLogger(__name__)

_AGREEMENT = "agreement"


@dataclass(frozen=True)
class RobustnessOptions:
    """What is to be measured.

    Attributes:
        corruptions: Some of `corruptions.NAMES`.
        severities: Some of 1 to 5.
        images: How many images to corrupt; all if None.
        seed: Seed of the corruptions and of the choice of images.
    """

    corruptions: tuple[str, ...]
    severities: tuple[int, ...]
    images: int | None
    seed: int

    @classmethod
    def of(
        cls,
        corruptions: str | Sequence[str] | None,
        severities: str | Sequence[int] = "1..5",
        *,
        images: int | None = None,
        seed: int = 0,
    ) -> RobustnessOptions | None:
        """Read what a user wrote.

        Args:
            corruptions: Names and groups, as a list or with commas between them; `true` for all of them;
                None or `false` for none.
            severities: Numbers, likewise, or a range as `1..5`.
            images: How many images.
            seed: Any integer that is not negative.

        Returns:
            The options; None if nothing is to be measured.

        Raises:
            InputError: A name, a severity or a number cannot be.
        """
        if images is not None and images < 1:
            raise InputError(f"--corruption_images is {images}; it has to be at least 1.")
        if seed < 0:
            raise InputError(f"--seed is {seed}; it has to be at least 0.")
        strengths = _severities(severities)
        words = [corruptions] if isinstance(corruptions, str) else list(corruptions or [])
        words = [word.strip() for each in words for word in each.strip("[] ").split(",")]
        if not words or words in (["false"], ["none"], ["null"]):
            return None
        chosen: list[str] = []
        for word in words:
            known = {"true": NAMES, "all": NAMES, **GROUPS, **{name: (name,) for name in NAMES}}
            if word.lower() not in known:
                raise unknown_name("corruption", word, ["true", *GROUPS, *NAMES])
            chosen += known[word.lower()]
        return cls(tuple(name for name in NAMES if name in chosen), strengths, images, seed)


def _severities(given: str | Sequence[int]) -> tuple[int, ...]:
    try:
        if isinstance(given, str):
            first, dots, last = given.strip("[] ").partition("..")
            found = (
                list(range(int(first), int(last) + 1)) if dots else [int(each) for each in first.split(",")]
            )
        else:
            found = [int(each) for each in given]
    except ValueError:
        found = []
    if not found or not set(found) <= set(SEVERITIES):
        raise InputError(f"--severities is {given}; give numbers from 1 to 5, such as 1..5 or 1,3,5.")
    return tuple(sorted(set(found)))


def stratified(targets: Tensor, count: int, seed: int) -> Tensor:
    """Choose images, the same share of every class.

    Args:
        targets: Class of every image, `(N,)` int64.
        count: How many; with N or more it is all of them.
        seed: Decides which.

    Returns:
        Their positions in `targets`, sorted, `(min(count, N),)` int64.
    """
    keys = random_bits(torch.arange(len(targets)), seed=seed, view=0, stream=Stream.SUBSET)
    order = keys.argsort(stable=True)
    order = order[targets[order].argsort(stable=True)]
    sizes = targets.bincount()
    begins = (sizes.cumsum(0) - sizes)[targets[order]]
    # The j-th of a class with n images stands at (j + 1/2) / n of the way: a prefix takes equal shares.
    way = (torch.arange(len(order)) - begins + 0.5).double() / sizes[targets[order]]
    spread = order[keys[order].argsort(stable=True)]  # equals in random order, not class by class
    ranked = torch.empty_like(way).index_copy_(0, order, way)
    return spread[ranked[spread].argsort(stable=True)][:count].sort().values


@torch.inference_mode()
def robustness(
    networks: Mapping[str, Callable[[Batch], Tensor]],
    loader: Loader,
    data: ImageData,
    options: RobustnessOptions,
) -> dict[str, Any]:
    """Run networks over corrupted images, which are read once.

    Args:
        networks: `student` and, if it is at hand, `teacher`; each maps a batch to logits `(B, C)`.
        loader: The images, not augmented.
        data: The data set.
        options: What to measure.

    Returns:
        `corruptions`: by name, `accuracy` by network and `agreement`, each a list over the severities.
        `clean`: the same on the same images without corruption, as shares with their intervals. `summary`: by
        network `mean_accuracy`, `mean_error` (1 minus that) and `error_increase` (that minus the clean
        error), and with a teacher `agreement` and `error_to_teacher`, the mean over the corruptions of the
        student's errors over the teacher's, both summed over the severities (Hendrycks and Dietterich 2019,
        section 4.2, with the teacher in AlexNet's place); None if the teacher errs nowhere. And the setting:
        `images`, `of`, `severities`, `seed`, `strengths` (whose parameters), `grey`, `seconds`,
        `images_per_second` (corrupted and answered by all networks) and `corrupted_per_second`.
    """
    chosen = loader.indices
    if options.images is not None:
        chosen = chosen[stratified(loader.images.targets[chosen], options.images, options.seed)]
    pixels = Loader(
        loader.images,
        mean=(0.0,) * 3,
        std=(1 / 255,) * 3,  # leaves 0 to 255
        indices=chosen,
        image_size=data.image_size,
        batch_size=loader.batch_size,
        device=loader.device,
        workers=loader.workers,
    )
    counted = _count(networks, pixels, data, options)
    return _summed_up(networks, counted, options, of=len(loader.indices), size=data.image_size)


@dataclass
class _Counted:
    """How many answers are right, or the teacher's: of clean images under (None, 0)."""

    hits: dict[tuple[str | None, int], dict[str, Tensor]]
    images: int
    grey: bool
    seconds: float
    corrupting: float


def _count(
    networks: Mapping[str, Callable[[Batch], Tensor]],
    pixels: Loader,
    data: ImageData,
    options: RobustnessOptions,
) -> _Counted:
    mean, std = (torch.tensor(each, device=pixels.device).view(1, -1, 1, 1) for each in (data.mean, data.std))
    kinds: list[tuple[str | None, int]] = [(None, 0)]
    kinds += [(name, severity) for name in options.corruptions for severity in options.severities]
    hits: dict[tuple[str | None, int], dict[str, Tensor]] = {kind: {} for kind in kinds}
    images, corrupting, grey = 0, 0.0, True
    begun = time.perf_counter()
    for number, batch in enumerate(pixels.epoch(0)):
        clean = batch.images.round().to(torch.uint8)
        grey = grey and bool((clean == clean[:, :1]).all())
        images += len(clean)
        for name, severity in kinds:
            shown = clean
            if name is not None:
                _wait(pixels.device)  # for what the networks still have in hand, which is not timed here
                start = time.perf_counter()
                shown = corrupt(clean, batch.indices, name=name, severity=severity, seed=options.seed)
                _wait(pixels.device)
                corrupting += time.perf_counter() - start
            normal = (shown / 255 - mean) / std
            normal = normal.contiguous(memory_format=torch.channels_last)
            answered = Batch(normal, batch.targets, batch.indices, batch.view, batch.host_indices)
            said = {each: network(answered).argmax(1) for each, network in networks.items()}
            found = {each: (classes == batch.targets).sum() for each, classes in said.items()}
            if "teacher" in said:
                found[_AGREEMENT] = (said["student"] == said["teacher"]).sum()
            for each, count in found.items():
                hits[name, severity][each] = hits[name, severity].get(each, 0) + count
        if number == 0:
            _wait(pixels.device)
            left = (time.perf_counter() - begun) * (len(pixels) - 1)
            logger.info(
                "corruptions: %d images in %d ways, about %.0f s more",
                pixels.num_samples,
                len(kinds) - 1,
                left,
            )
    _wait(pixels.device)
    return _Counted(hits, images, grey, time.perf_counter() - begun, corrupting)


def _summed_up(
    networks: Mapping[str, Any], counted: _Counted, options: RobustnessOptions, *, of: int, size: int
) -> dict[str, Any]:
    images, with_teacher = counted.images, "teacher" in networks

    def shares(name: str, each: str) -> list[float]:
        return [counted.hits[name, severity][each].item() / images for severity in options.severities]

    by_name: dict[str, Any] = {
        name: {"accuracy": {each: shares(name, each) for each in networks}}
        | ({_AGREEMENT: shares(name, _AGREEMENT)} if with_teacher else {})
        for name in options.corruptions
    }
    clean = {each: share(int(count), images) for each, count in counted.hits[None, 0].items()}
    summary: dict[str, Any] = {}
    for each in networks:
        accuracy = fmean(fmean(found["accuracy"][each]) for found in by_name.values())
        summary[each] = {
            "mean_accuracy": accuracy,
            "mean_error": 1 - accuracy,
            "error_increase": clean[each]["value"] - accuracy,
        }
    if with_teacher:
        summary[_AGREEMENT] = fmean(fmean(found[_AGREEMENT]) for found in by_name.values())
        errors = [
            tuple(sum(1 - value for value in found["accuracy"][each]) for each in ("student", "teacher"))
            for found in by_name.values()
        ]
        summary["error_to_teacher"] = (
            fmean(student / teacher for student, teacher in errors)
            if all(teacher > 0 for _, teacher in errors)
            else None
        )
    ways = len(options.corruptions) * len(options.severities)
    return {
        "images": images,
        "of": of,
        "severities": list(options.severities),
        "seed": options.seed,
        "strengths": table_for(size)[0],
        "grey": counted.grey,
        "seconds": counted.seconds,
        "images_per_second": images * (ways + 1) / counted.seconds,
        "corrupted_per_second": images * ways / counted.corrupting,
        "clean": clean,
        "corruptions": by_name,
        "summary": summary,
    }


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)

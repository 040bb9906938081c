"""Images to try an exported network on, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cmkd import data as datasets
from cmkd.data import ImageData, Images, Loader
from cmkd.data.random import permutation
from cmkd.errors import InputError
from cmkd.export.card import Card
from cmkd.export.opening import Model
from cmkd.files import public_name
from cmkd.training.run_folder import RunFolder

Part = Literal["test", "validation", "none"]

#: Largest difference of the logits, relative to the largest logit, that passes for rounding in float32.
TOLERANCE = 1e-4

_PARITY_IMAGES = 64
_CALIBRATION_IMAGES = 512
_BATCH = 64
# Alone, few, and the rest: a batch size that an exporter took for a constant would be seen.
_BATCHES = (1, 5)


@dataclass
class Samples:
    """Images of a run.

    Attributes:
        what: What they are, in words.
        why: Why they are not the run's, where these should have been; it may name files of this machine.
        part: The part of the data that is looked at; None if there is none at hand.
        training: The training part without what was held out of it; None likewise.
    """

    what: str
    card: Card
    why: str = ""
    part: Subset | None = None
    training: Subset | None = None

    def few(self) -> Tensor:
        """Return up to 64 images as grey levels, float32 `(N, 3, H, W)`: of the part, or random ones."""
        if self.part is not None:
            return next(self.part.spread(_PARITY_IMAGES))[0]
        side, channels = self.card.image_size, self.card.channels
        generator = torch.Generator().manual_seed(0)
        levels = torch.randint(256, (_PARITY_IMAGES, channels, side, side), generator=generator)
        return levels.expand(-1, 3, -1, -1).float()

    def calibration(self) -> list[Tensor] | None:
        """Return batches of images that were trained on, without augmentation; None if there are none."""
        if self.training is None:
            return None
        return [levels for levels, _ in self.training.drawn(_CALIBRATION_IMAGES)]


@dataclass
class Subset:
    """Some images of a set, read as its loader reads them.

    Attributes:
        images: The set.
        indices: Which ones, `(N,)` int64.
        size: Side in pixels that they are brought to.
        workers: Processes that decode.
    """

    images: Images
    indices: Tensor
    size: int
    workers: int

    def batches(self, indices: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield grey levels `(B, 3, H, W)` and targets `(B,)`."""
        loader = Loader(
            self.images,
            indices=self.indices if indices is None else indices,
            mean=(0.0,) * 3,
            std=(1 / 255,) * 3,  # which leaves the grey levels as they are
            image_size=self.size,
            batch_size=_BATCH,
            workers=self.workers,
        )
        for batch in loader.epoch(0):
            yield batch.images.contiguous(), batch.targets

    def spread(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of so many images, at equal distances: sets are often sorted by class."""
        count = min(count, len(self.indices))
        return self.batches(self.indices[torch.linspace(0, len(self.indices) - 1, count).long()])

    def drawn(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of so many images, drawn at random, always the same ones."""
        return self.batches(permutation(self.indices, seed=0, view=0)[:count])


def samples_of(run: Path, card: Card, part: Part | None, data_root: str | None) -> Samples:
    """Return images of a run where they are to be had.

    Args:
        run: Run folder.
        card: What is known of its network.
        part: Part of the data; by default the test set, or the validation part of a run that was told never
            to look at the test set.
        data_root: Folder with the data set's files, if it is not where the run found it.

    Raises:
        InputError: The part was named, and it or the data are not to be had.
    """
    noise = "random images"
    if part == "none":
        return Samples(noise, card)
    try:
        config = RunFolder(run).read_config()
        data = _open(config, card, data_root)
        kept, held_out = datasets.split(data.train.targets, config["validation"], config["seed"])
        chosen = part or ("validation" if config.get("test") == "never" else "test")
        if chosen == "validation" and not len(held_out):
            raise InputError(f"{run} held no validation part out; take --part none, or --part test.")
    except InputError as error:
        if part is not None or data_root is not None:
            raise
        return Samples(noise, card, why=f"the run's are not to be had: {error}")
    common = {"size": card.image_size, "workers": config.get("workers", 0)}
    looked_at = (
        Subset(data.train, held_out, **common)
        if chosen == "validation"
        else Subset(data.test, torch.arange(len(data.test)), **common)
    )
    what = f"{chosen} images of {public_name(data.name)}"
    return Samples(what, card, part=looked_at, training=Subset(data.train, kept, **common))


def _open(config: dict[str, Any], card: Card, data_root: str | None) -> ImageData:
    data = datasets.load(
        config["data"],
        data_root or config["data_root"],
        image_size=card.image_size,
        bad_images=config.get("bad_images", "fail"),
        image_column=config.get("image_column"),
        label_column=config.get("label_column"),
    )
    if data.classes != card.classes:
        raise InputError(f"{data.name} has other classes now than when the network was trained.")
    return data


@dataclass(frozen=True)
class Parity:
    """How far the logits of an exported network are from PyTorch's.

    Attributes:
        images: Number of images, in batches of 1, 5 and the rest.
        difference: Largest difference of a logit, relative to the largest logit.
        agreement: Share of the images that both give the same class.
    """

    images: int
    difference: float
    agreement: float


def parity(reference: Model, exported: Model, levels: Tensor) -> Parity:
    """Compare two networks on images.

    Args:
        reference: The network in PyTorch.
        exported: What was made of it.
        levels: Grey levels `(N, 3, H, W)`; rounded, if the exported network takes 8-bit pixels.

    Raises:
        InputError: The exported network fails on a batch.
    """
    if exported.card.pixels:
        levels = levels.round()
    sizes = [*_BATCHES, max(len(levels) - sum(_BATCHES), 0)]
    sizes = sizes if sum(sizes) == len(levels) else [1] * len(levels)
    batches = [batch for batch in levels.split(sizes) if len(batch)]
    expected = torch.cat([reference(batch) for batch in batches])
    try:
        found = torch.cat([exported(batch) for batch in batches])
        if found.shape != expected.shape:
            raise ValueError(
                f"its logits are {tuple(found.shape)}, those of PyTorch {tuple(expected.shape)}."
            )
    except Exception as error:  # of ONNX Runtime, or of what a tracer took for a constant
        line = next(iter(str(error).strip().splitlines()), "")
        raise InputError(
            f"the exported network fails on batches of 1, 5 and more images: {type(error).__name__}: {line} "
            "Nothing was written; try another --format."
        ) from error
    scale = float(expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny))
    return Parity(
        images=len(levels),
        difference=float((found - expected).abs().max()) / scale,
        agreement=float((found.argmax(1) == expected.argmax(1)).float().mean()),
    )


def accuracy(model: Model, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, int]:
    """Return the share of images whose class a network finds, and their number."""
    right, count = 0, 0
    for levels, targets in batches:
        right += int((model(levels).argmax(1) == targets).sum())
        count += len(targets)
    return right / count, count

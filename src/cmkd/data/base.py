"""What a data set is, and how its training part is split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from cmkd.data.augment import resized_crop
from cmkd.data.pixels import Framing
from cmkd.data.random import Stream, random_bits
from cmkd.errors import InputError


class Images(Protocol):
    """Labelled images that are read by index."""

    targets: Tensor
    """Class of every image, `(N,)` int64, on the CPU."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def read(self, indices: Tensor, crops: Tensor | None = None) -> Tensor:
        """Read images.

        Args:
            indices: Which ones, `(B,)` int64.
            crops: For every image the four uniform numbers of a random resized crop, `(B, 4)` (see
                `augment.crop_draws`); None reads the image whole, or its centre where shapes differ.

        Returns:
            uint8 `(B, channels, H, W)`.
        """
        ...


class TensorImages:
    """Images of one size that live in memory, on the CPU or on an accelerator.

    Args:
        images: uint8 `(N, channels, H, W)` with 1 or 3 channels.
        targets: int64 `(N,)`.
    """

    def __init__(self, images: Tensor, targets: Tensor) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise InputError(
                f"images are {images.dtype} {tuple(images.shape)}; expected uint8 (N, channels, H, W) "
                "with 1 or 3 channels."
            )
        if targets.shape != images.shape[:1]:
            raise InputError(f"there are {len(images)} images but targets of shape {tuple(targets.shape)}.")
        self.images = images
        self.targets = targets.cpu().long()

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Tensor, crops: Tensor | None = None) -> Tensor:
        """Gather images; indices lie on the images' device, and crops keep the images' own size."""
        images = self.images.index_select(0, indices)  # copies whole images, where [] goes byte by byte
        if crops is None:
            return images
        pairs = zip(images, crops.cpu(), strict=True)
        return torch.stack([resized_crop(image, draws, size=image.shape[-1]) for image, draws in pairs])

    def to(self, device: torch.device | str) -> TensorImages:
        """Return these images on a device."""
        return TensorImages(self.images.to(device), self.targets)


@dataclass(frozen=True)
class ImageData:
    """A data set for image classification.

    Attributes:
        name: How it was asked for.
        classes: Names of the classes; a target is an index into them.
        train: Training part. A validation part is split from it (`split`), never from the test part.
        test: Test part.
        mean: Mean of each of 3 channels, for pixels in [0, 1].
        std: Standard deviation likewise.
        image_size: Side of the square images that a network gets, in pixels.
        augment: Augmentation that is customary for this set (see `augment.AUGMENTATIONS`).
        usual: Mean and std of the set itself, where `mean` and `std` are those that the weights of a network
            expect (`normalised`); else None.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    test: Images
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    augment: str
    usual: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise InputError(f"{self.name} has {self.num_classes} class; a classifier needs at least 2.")
        for part, images in (("training", self.train), ("test", self.test)):
            if len(images) == 0:
                raise InputError(f"{self.name} has no {part} images.")
            low, high = int(images.targets.min()), int(images.targets.max())
            if low < 0 or high >= self.num_classes:
                raise InputError(
                    f"{self.name} has the target {low if low < 0 else high} among its {part} images; "
                    f"with {self.num_classes} classes, targets are 0 to {self.num_classes - 1}."
                )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def channels(self) -> int:
        """1 if the images are grey; a network gets such a channel three times."""
        return self.test.images.shape[1] if isinstance(self.test, TensorImages) else 3

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> ImageData:
        """Return this data set, to be normalised with a mean and std that are not its own."""
        usual = self.usual or (self.mean, self.std)
        return replace(self, mean=tuple(mean), std=tuple(std), usual=usual)

    @property
    def framing(self) -> Framing:
        """What a network gets of an image that is not square: images on disk are cut to their centre."""
        return "whole" if isinstance(self.test, TensorImages) else "centre"


def split(targets: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Hold out a part of a set, the same fraction of every class.

    Args:
        targets: Class of every image, `(N,)` int64.
        fraction: Part to hold out, in [0, 1). Of a class with n images round(fraction * n) are taken, but at
            least one (for a fraction above 0) and never all of them.
        seed: Decides which images; any integer.

    Returns:
        Indices that stay and indices that are held out, both sorted, int64.

    Raises:
        InputError: If the fraction lies outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise InputError(f"the fraction to hold out is {fraction}; give a number from 0 to below 1.")
    keys = random_bits(torch.arange(len(targets)), seed=seed, view=0, stream=Stream.SPLIT)
    by_class = keys.argsort(stable=True)
    by_class = by_class[
        targets[by_class].argsort(stable=True)
    ]  # the classes one after the other, each shuffled
    held_out = torch.zeros(len(targets), dtype=torch.bool)
    for members in by_class.split(targets.unique(return_counts=True)[1].tolist()):
        count = min(max(round(fraction * len(members)), int(fraction > 0)), len(members) - 1)
        held_out[members[:count]] = True
    return (~held_out).nonzero().flatten(), held_out.nonzero().flatten()

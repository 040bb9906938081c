"""Images that lie encoded on disk and are decoded when they are read."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, overload

import torch
from torch import Tensor

from cmkd.data.base import ImageData, split
from cmkd.data.decoding import DamagedImage, read_pixels
from cmkd.data.random import Stream, random_bits
from cmkd.errors import InputError

if TYPE_CHECKING:
    from typing_extensions import Self

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Normalisation that pretrained networks expect."""

IMAGE_SIZE = 224
BadImages = Literal["fail", "skip"]
_TEST_FRACTION = 0.2
_TEST_SPLIT_SEED = 0  # fixed: the test part must not depend on the seed of a run
_MOST_STAND_INS = 32


@dataclass(frozen=True)
class ReadOptions:
    """How the images of a set are found and read.

    Attributes:
        image_size: Side of the images that the networks get, in pixels.
        bad_images: What an image that cannot be decoded does: end the run (`fail`), or be replaced by another
            one of its class and reported (`skip`).
        image_column: Column of a table that has the images; found by its type if None.
        label_column: Column of a table that has the labels; found by its type if None.
    """

    image_size: int = IMAGE_SIZE
    bad_images: BadImages = "fail"
    image_column: str | None = None
    label_column: str | None = None


class Reading(NamedTuple):
    """Images as they were read.

    Attributes:
        pixels: uint8 `(B, 3, image_size, image_size)`, channels last in memory.
        indices: Which images they are, `(B,)` int64, where that differs from what was asked for; else None.
        bad: Index and message of every image that could not be decoded.
    """

    pixels: Tensor
    indices: Tensor | None
    bad: dict[int, str]


class StoredImages(ABC):
    """Images decoded to RGB and brought to one size when they are read.

    Args:
        targets: Class of each image, int64 `(N,)`.
        options: How they are read.
    """

    def __init__(self, targets: Tensor, options: ReadOptions) -> None:
        # Takes seconds: worker processes, which are made anew for every epoch, get it from this one.
        import torchvision.transforms.v2.functional  # noqa: F401

        self.targets = targets
        self.options = options

    def __len__(self) -> int:
        return len(self.targets)

    @abstractmethod
    def content(self, index: int) -> bytes:
        """Return the bytes of an image file; raise `OSError` or `DamagedImage` if they cannot be had."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Return what a user finds the image by."""

    @abstractmethod
    def subset(self, indices: Tensor) -> Self:
        """Return some of the images, `(N,)` int64, as a set of their own."""

    def read(self, indices: Tensor, crops: Tensor | None = None) -> Tensor:
        """Decode images to uint8 `(B, 3, image_size, image_size)`, channels last in memory.

        Args:
            indices: Which ones, `(B,)` int64.
            crops: Draws of a random resized crop for each, `(B, 4)`; None takes the centres (see
                `decoding.read_pixels`).

        Returns:
            The pixels.

        Raises:
            InputError: An image cannot be decoded.
        """
        pixels = self._empty(len(indices))
        for position, index in enumerate(indices.tolist()):
            try:
                pixels[position] = self._decoded(index, None if crops is None else crops[position])
            except (DamagedImage, OSError) as error:  # noqa: PERF203 - costs nothing against decoding
                raise bad_image(self.name(index), error) from error
        return pixels

    def read_or_replace(
        self, indices: Tensor, crops: Callable[[Tensor], Tensor | None], pool: Tensor
    ) -> Reading:
        """Decode images; with `bad_images="skip"`, take another one for each that cannot be decoded.

        Another image means its pixels, its crop, its class and its index: a cached teacher looks up what it
        said of that one. Which it is depends on the index of the bad one and on the pool alone, so that
        order, batch sizes and resume stay exact; it is of the same class if that can be.

        Args:
            indices: Which ones, `(B,)` int64.
            crops: Maps indices to the draws of their crops; see `read`.
            pool: Images that may be taken, int64: a bad training image must not be replaced by one that is
                held out for validation.

        Returns:
            What was read.

        Raises:
            InputError: An image cannot be decoded, and the options say that this is an error; or a long row
                of others cannot either.
        """
        if self.options.bad_images == "fail":
            return Reading(self.read(indices, crops(indices)), None, {})
        draws = crops(indices)
        pixels, taken, bad = self._empty(len(indices)), indices.clone(), dict[int, str]()
        for position, index in enumerate(indices.tolist()):
            try:
                pixels[position] = self._decoded(index, None if draws is None else draws[position])
            except (DamagedImage, OSError) as error:  # noqa: PERF203 - as above
                bad[index] = f"{self.name(index)}: {error}"
                taken[position], pixels[position] = self._stand_in(index, crops, pool, bad)
        return Reading(pixels, taken if bad else None, bad)

    def _stand_in(
        self, index: int, crops: Callable[[Tensor], Tensor | None], pool: Tensor, bad: dict[int, str]
    ) -> tuple[int, Tensor]:
        same_class = self.targets[pool] == self.targets[index]
        start = random_bits(torch.tensor(index), seed=0, view=0, stream=Stream.STAND_IN)
        for members in (pool[same_class], pool[~same_class]):
            turned = members.roll(-int(start % max(len(members), 1)))[:_MOST_STAND_INS]
            for other in turned.tolist():
                draws = crops(torch.tensor([other]))
                try:
                    return other, self._decoded(other, None if draws is None else draws[0])
                except (DamagedImage, OSError) as error:
                    bad[other] = f"{self.name(other)}: {error}"
        raise InputError(
            f"the image {bad[index]}. Nor can any other be read that was tried in its place: are the files "
            "in order?"
        )

    def _decoded(self, index: int, draws: Tensor | None) -> Tensor:
        return read_pixels(self.content(index), self.options.image_size, draws)

    def _empty(self, count: int) -> Tensor:
        size = self.options.image_size
        return torch.empty(count, size, size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)


class PackedStrings(Sequence[str]):
    """Strings in one piece of memory.

    A list of a million paths takes some 150 MB, and again as much in every worker process: looking at an
    object changes its reference count, and with that the memory page that was shared until then.

    Args:
        strings: What to keep.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        content, ends = bytearray(), array("q", [0])
        for string in strings:
            content += os.fsencode(string)
            ends.append(len(content))
        self._content, self._ends = bytes(content), ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, item: int) -> str: ...
    @overload
    def __getitem__(self, item: slice) -> list[str]: ...
    def __getitem__(self, item: int | slice) -> str | list[str]:
        if isinstance(item, slice):
            return [self[index] for index in range(*item.indices(len(self)))]
        index = range(len(self))[item]
        return os.fsdecode(self._content[self._ends[index] : self._ends[index + 1]])


def bad_image(name: str, error: Exception) -> InputError:
    """Return the error for an image that cannot be decoded."""
    return InputError(
        f"cannot read the image {name}: {error}. Replace or remove it, or take --bad_images skip."
    )


def set_aside(images: StoredImages) -> tuple[StoredImages, StoredImages]:
    """Return a training and a test part: 20 % of every class, always the same images."""
    kept, held_out = split(images.targets, _TEST_FRACTION, _TEST_SPLIT_SEED)
    return images.subset(kept), images.subset(held_out)


def as_image_data(
    name: str, classes: tuple[str, ...], train: StoredImages, test: StoredImages | None, options: ReadOptions
) -> ImageData:
    """Make a data set of stored images, with a test part set aside where there is none."""
    if test is None:
        train, test = set_aside(train)
    return ImageData(
        name=name,
        classes=classes,
        train=train,
        test=test,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        image_size=options.image_size,
        augment="resized_crop_flip",
    )

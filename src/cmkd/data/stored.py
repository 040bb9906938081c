"""Images that lie encoded on disk and are decoded when they are read."""

from __future__ import annotations

import copy
import os
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, overload

import torch
from torch import Tensor

from cmkd.data.base import split
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


class StoredImages(ABC):
    """Images decoded to RGB and brought to one size when they are read.

    An image that cannot be decoded is an error, or with `bad_images="skip"` it is replaced for good: index i
    then stands for the pixels of another image of the same class, chosen by i alone. Batch sizes, order,
    targets, resume and cached logits all stay what they are.

    Args:
        targets: Class of each image, int64 `(N,)`.
        options: How they are read.
    """

    def __init__(self, targets: Tensor, options: ReadOptions) -> None:
        # Takes seconds: worker processes, which are made anew for every epoch, get it from this one.
        import torchvision.transforms.v2.functional  # noqa: F401

        self.targets = targets
        self.options = options
        self._pool: Tensor | None = None
        self._bad: dict[int, str] = {}

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

    def within(self, indices: Tensor) -> Self:
        """Return the same images, replaced by none but those of `indices`, `(N,)` int64.

        A bad training image must not be replaced by one that is held out for validation.
        """
        images = copy.copy(self)
        images._pool, images._bad = indices, {}
        return images

    def take_bad(self) -> dict[int, str]:
        """Return what could not be read since the last call: index and message."""
        bad, self._bad = self._bad, {}
        return bad

    def read(self, indices: Tensor, crops: Tensor | None = None) -> Tensor:
        """Decode images to uint8 `(B, 3, image_size, image_size)`, channels last in memory.

        Args:
            indices: Which ones, `(B,)` int64.
            crops: Draws of a random resized crop for each, `(B, 4)`; None takes the centres (see
                `decoding.read_pixels`).

        Returns:
            The pixels.

        Raises:
            InputError: An image cannot be decoded, and the options say that this is an error; or none of its
                class can.
        """
        size = self.options.image_size
        pixels = torch.empty(len(indices), size, size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
        for position, index in enumerate(indices.tolist()):
            pixels[position] = self._read_one(index, None if crops is None else crops[position])
        return pixels

    def _read_one(self, index: int, draws: Tensor | None) -> Tensor:
        for candidate in self._candidates(index):
            try:
                return read_pixels(self.content(candidate), self.options.image_size, draws)
            except (DamagedImage, OSError) as error:  # noqa: PERF203 - one turn, but for a bad image
                if self.options.bad_images == "fail":
                    raise bad_image(self.name(candidate), error) from error
                self._bad[candidate] = f"{self.name(candidate)}: {error}"
        raise InputError(
            f"neither {self.name(index)} can be read nor any of the images of its class that were tried in "
            f"its place (the last one: {self._bad[candidate]}). Are the files in order?"
        )

    def _candidates(self, index: int) -> Iterator[int]:
        """Yield an image, and then others of its class in an order that the index alone decides."""
        yield index
        pool = torch.arange(len(self)) if self._pool is None else self._pool
        members = pool[self.targets[pool] == self.targets[index]]
        members = members[members != index]
        if len(members):
            bits = random_bits(torch.tensor([index]), seed=0, view=0, stream=Stream.STAND_IN)
            start = int(bits % len(members))
            yield from members.roll(-start)[:_MOST_STAND_INS].tolist()


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

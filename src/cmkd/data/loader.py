"""Batches of images: (seed, epoch) decides their order, (augmentation seed, view) their pixels."""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cmkd.data.augment import augment, crop_draws, require_known
from cmkd.data.base import Images, TensorImages
from cmkd.data.pixels import as_levels, scale_and_shift
from cmkd.data.random import permutation
from cmkd.data.stored import Reading, StoredImages
from cmkd.errors import InputError

logger = logging.getLogger(__name__)

_DECODING_WORKERS = 2
#: Seconds that a worker goes on for after it was asked to end.
_GRACE = 30


@dataclass(frozen=True)
class Batch:
    """What a network is trained or judged on in one step.

    Attributes:
        images: Normalised, float32 `(B, 3, H, W)`, channels last in memory.
        targets: Class of every image, `(B,)` int64.
        indices: Index of every image in its data set, `(B,)` int64; of its stand-in, if it could not be read.
        view: Which version of the images: augmentation is a function of (seed, index, view).
        host_indices: `indices` on the CPU, which can be read there without waiting for a device; None if
            they are nowhere but in `indices`.
    """

    images: Tensor
    targets: Tensor
    indices: Tensor
    view: int
    host_indices: Tensor | None = None


class Loader:
    """Batches of a data set, the same ones for the same seed and epoch.

    Images in memory are kept as uint8 on the device: a batch is a gather and a few tensor operations. Others
    are decoded by worker processes.

    Args:
        images: Where to read from.
        mean: Mean of each of 3 channels, for pixels in [0, 1]; images of 1 channel are repeated.
        std: Standard deviation likewise.
        batch_size: Images per batch, over all processes together.
        indices: Which images, `(N,)` int64; all by default.
        targets: Class of every image of the set, `(N,)` int64, in place of its own.
        augment: One of `augment.AUGMENTATIONS`.
        image_size: Side of the images in pixels; images of another size are scaled. Theirs by default.
        seed: Decides the order and, unless `augment_seed` is given, the augmentation.
        augment_seed: Decides the augmentation: runs with different seeds can share the pixels of one.
        views: Number of versions of every image: epochs e and e + views show the same pixels, in another
            order. Every epoch shows its own by default.
        shuffle: Another order in every epoch, instead of the order of `indices`.
        drop_last: Leave out the last batch if it is not full.
        device: Where the batches go.
        workers: Processes that decode; by default 2, and none for images in memory.
        rank: Number of this process.
        world_size: Number of processes; each gets its part of every batch.

    Attributes:
        targets: Class of every image of the set, `(N,)` int64, as it is given with the batches.
        bad_images: Index and message of every image that this process could not decode and replaced (see
            `StoredImages`).

    Raises:
        InputError: If the batch does not fit the data or the processes, or the augmentation is unknown.
    """

    def __init__(
        self,
        images: Images,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int,
        indices: Tensor | None = None,
        targets: Tensor | None = None,
        augment: str = "none",
        image_size: int | None = None,
        seed: int = 0,
        augment_seed: int | None = None,
        views: int | None = None,
        shuffle: bool = False,
        drop_last: bool = False,
        device: torch.device | str = "cpu",
        workers: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        require_known(augment)
        if views is not None and views < 1:
            raise InputError(f"views is {views}; give at least 1.")
        self.indices = torch.arange(len(images)) if indices is None else indices
        _require_fit(batch_size, len(self.indices), world_size, training=shuffle or drop_last)
        self.device = torch.device(device)
        self.images = images.to(self.device) if isinstance(images, TensorImages) else images
        self.bad_images: dict[int, str] = {}
        self.batch_size = batch_size
        self.augment = augment
        self.image_size = image_size
        self.seed = seed
        self.augment_seed = seed if augment_seed is None else augment_seed
        self.views = views
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.workers = _DECODING_WORKERS if workers is None else workers
        self.rank = rank
        self.world_size = world_size
        self.targets = images.targets if targets is None else targets
        self._targets = self.targets.to(self.device)
        self._scale, self._shift = scale_and_shift(mean, std, self.device)

    def __len__(self) -> int:
        """Return the number of batches in an epoch, the same in every process."""
        whole = len(self.indices) / self.batch_size
        return math.floor(whole) if self.drop_last else math.ceil(whole)

    @property
    def num_samples(self) -> int:
        """Number of images in an epoch, over all processes together."""
        return len(self) * self.batch_size if self.drop_last else len(self.indices)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one pass.

        Args:
            epoch: Number of the pass, from 0; decides the order and which view of the images is shown.
            start: Number of batches to leave out at the beginning, to go on in the middle of a pass.

        Yields:
            This process's part of every batch (empty if the last batch is smaller than the world).
        """
        view = epoch if self.views is None else epoch % self.views
        order = permutation(self.indices, seed=self.seed, view=epoch) if self.shuffle else self.indices
        batches = [self._part(batch) for batch in order.split(self.batch_size)[start : len(self)]]
        read = (
            self._gathered(batches, view)
            if isinstance(self.images, TensorImages)
            else self._decoded(batches, view)
        )
        for host_indices, indices, pixels in read:
            images = augment(pixels, indices, name=self.augment, seed=self.augment_seed, view=view)
            yield Batch(self._normalize(images), self._targets[indices], indices, view, host_indices)

    def _part(self, batch: Tensor) -> Tensor:
        return batch.tensor_split(self.world_size)[self.rank]

    def in_order(self, parts: Sequence[Tensor]) -> Tensor:
        """Put together what every process has found out about its part of an unshuffled epoch.

        Args:
            parts: For each process, one row `(...)` for each of its images, in the order it got them.

        Returns:
            One row per image, in the order of `indices`.
        """
        positions = torch.arange(self.num_samples).split(self.batch_size)
        ranks = range(self.world_size)
        order = [batch.tensor_split(self.world_size)[rank] for rank in ranks for batch in positions]
        return torch.cat(list(parts))[torch.cat(order).argsort()]

    @staticmethod
    def _crops(indices: Tensor, *, augment: str, seed: int, view: int) -> Tensor | None:
        return crop_draws(indices, seed=seed, view=view) if augment == "resized_crop_flip" else None

    def _gathered(self, batches: list[Tensor], view: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for batch in batches:
            indices = batch.to(self.device)
            crops = self._crops(indices, augment=self.augment, seed=self.augment_seed, view=view)
            yield batch, indices, self.images.read(indices, crops)

    def _decoded(self, batches: list[Tensor], view: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        crops = partial(self._crops, augment=self.augment, seed=self.augment_seed, view=view)
        on_cuda = self.device.type == "cuda"
        decoder = DataLoader(
            _Requests(self.images, batches, crops, self.indices),
            batch_size=None,
            num_workers=self.workers,
            pin_memory=on_cuda,
            worker_init_fn=_outlive_signals,
            generator=torch.Generator(),  # a draw from the global one would change dropout after a resume
        )
        for batch, answer in zip(batches, decoder, strict=True):
            if isinstance(answer, InputError):
                raise answer
            self._report(answer.bad)
            indices = batch if answer.indices is None else answer.indices
            yield indices, indices.to(self.device), answer.pixels.to(self.device, non_blocking=on_cuda)

    def _report(self, bad: dict[int, str]) -> None:
        for index, message in bad.items():
            if index not in self.bad_images:
                self.bad_images[index] = message
                logger.warning(
                    "skipped the image %s; another one stands in for it (%d so far)",
                    message,
                    len(self.bad_images),
                )

    def _normalize(self, pixels: Tensor) -> Tensor:
        # Before the channels come last: then every factor would be met after three numbers.
        images = as_levels(pixels, self.image_size).mul_(self._scale).add_(self._shift)
        return images.contiguous(memory_format=torch.channels_last)


class _Requests(Dataset[Reading | InputError]):
    """Whole batches as the items of a torch data set."""

    def __init__(
        self,
        images: Images,
        batches: list[Tensor],
        crops: Callable[[Tensor], Tensor | None],
        pool: Tensor,
    ) -> None:
        self.images = images
        self.batches = batches
        self.crops = crops
        self.pool = pool

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, item: int) -> Reading | InputError:
        batch = self.batches[item]
        try:
            if isinstance(self.images, StoredImages):
                return self.images.read_or_replace(batch, self.crops, self.pool)
            return Reading(self.images.read(batch, self.crops(batch)), None, {})
        except InputError as error:
            return error  # raised in a worker, it would arrive with a traceback as its message


def _outlive_signals(_worker: int) -> None:
    """Let the main process finish its step: what ends a group of processes reaches the workers as well.

    They end when that process has no more work for them; or a while later, should it be unable to say so.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):  # not on Windows, which has no such groups
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE))


def _require_fit(batch_size: int, images: int, world_size: int, *, training: bool) -> None:
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; give at least 1.")
    if batch_size % world_size:
        raise InputError(
            f"batch_size {batch_size} cannot be shared equally by {world_size} processes; "
            f"give a multiple of {world_size}."
        )
    if training and batch_size > images:
        raise InputError(
            f"batch_size {batch_size} is larger than the {images} images; give at most {images}."
        )

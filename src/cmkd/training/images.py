"""The images of a run: the data set, and the loaders of its parts."""

from __future__ import annotations

from typing import Any

import torch

from cmkd import data as datasets
from cmkd.data import ImageData, Loader
from cmkd.data.label_noise import with_label_noise
from cmkd.errors import InputError
from cmkd.training.cache_config import CacheConfig
from cmkd.training.config import RunConfig
from cmkd.training.processes import Processes


def load_images(config: RunConfig | CacheConfig) -> ImageData:
    """Open the data set that the options name; see `cmkd.data.load`."""
    return datasets.load(
        config.data,
        config.data_root,
        image_size=config.image_size,
        bad_images=config.bad_images,
        image_column=config.image_column,
        label_column=config.label_column,
    )


def open_data(config: RunConfig, processes: Processes) -> ImageData:
    """Open the data set, first in the main process: what it downloads or indexes is there for the others.

    Args:
        config: The run's options.
        processes: Those that train.

    Raises:
        InputError: There is no such data set, or it cannot be read.
    """
    data: ImageData | None = None
    with processes.together():
        data = load_images(config) if processes.is_main else None
    with processes.together():
        data = load_images(config) if data is None else data
    assert data is not None
    return data


def open_loaders(
    data: ImageData, config: RunConfig, device: torch.device, processes: Processes
) -> dict[str, Loader]:
    """Return the loader `train` and, where there is such a part to look at, `validation` and `test`.

    Args:
        data: The data set.
        config: The run's options.
        device: Where the batches are wanted.
        processes: Those that train; each has its own part of every batch.

    Raises:
        InputError: There are too few images for that.
    """
    common: dict[str, Any] = {
        "mean": data.mean,
        "std": data.std,
        "image_size": data.image_size,
        "device": device,
        "workers": config.workers,
        "batch_size": config.batch_size,
        "rank": processes.rank,
        "world_size": processes.count,
    }
    train_indices, validation_indices = None, None
    if config.validation > 0:
        train_indices, validation_indices = datasets.split(data.train.targets, config.validation, config.seed)
        if len(validation_indices) == 0:
            raise InputError(
                f"--validation {config.validation} takes none of the {len(train_indices)} training images of "
                f"{data.name}: every class needs at least 2 images for that; or take --validation 0."
            )
    noisy = None
    if config.label_noise is not None:
        noisy = with_label_noise(data.train.targets, data.num_classes, config.label_noise, config.seed)
    loaders = {
        "train": Loader(
            data.train,
            indices=train_indices,
            targets=noisy,
            augment=config.augment or data.augment,
            seed=config.seed,
            augment_seed=config.augment_seed,
            views=config.views,
            shuffle=True,
            drop_last=True,
            **common,
        )
    }
    if validation_indices is not None:
        loaders["validation"] = Loader(data.train, indices=validation_indices, **common)
    if config.test != "never":
        loaders["test"] = Loader(data.test, **common)
    return loaders


def bad_images_by_part(loaders: dict[str, Loader], processes: Processes) -> dict[str, dict[int, str]]:
    """Return by part what any process could not decode, in the main process."""
    found: dict[str, dict[int, str]] = {}
    for own in processes.gather({part: loader.bad_images for part, loader in loaders.items()}):
        for part, bad in own.items():
            if bad:
                found.setdefault(part, {}).update(bad)
    return found

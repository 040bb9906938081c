"""The data set inside the package: a balanced part of Fashion-MNIST (Xiao et al. 2017, MIT licence)."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from cmkd.data.base import ImageData, TensorImages

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FASHION_MEAN, FASHION_STD = (0.2860,) * 3, (0.3530,) * 3


def fashion_mnist_12k(root: Path | None) -> ImageData:
    """10,000 + 2,000 grey images of clothes, 28 x 28, 10 classes; inside the package."""
    asset = resources.files("cmkd.data") / "assets" / "fashion_mnist_12k.npz"
    with resources.as_file(asset) as file, np.load(file, allow_pickle=False) as arrays:
        train, test = (
            TensorImages(
                torch.from_numpy(arrays[f"{part}_images"]).unsqueeze(1),
                torch.from_numpy(arrays[f"{part}_targets"].astype(np.int64)),
            )
            for part in ("train", "test")
        )
    return fashion("fashion-mnist-12k", train, test)


def fashion(name: str, train: TensorImages, test: TensorImages) -> ImageData:
    """Return Fashion-MNIST, the whole or a part, from its images."""
    return ImageData(
        name=name,
        classes=FASHION_CLASSES,
        train=train,
        test=test,
        mean=FASHION_MEAN,
        std=FASHION_STD,
        image_size=28,
        augment="crop_flip",
    )


DATASETS: dict[str, Callable[[Path | None], ImageData]] = {"fashion-mnist-12k": fashion_mnist_12k}

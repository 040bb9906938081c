"""The teachers, students and images that `benchmarks/throughput.py` measures with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import save_file
from torch import nn

from cmkd import data as datasets
from cmkd import models
from cmkd.data import ImageData, Loader, TensorImages

# Fewer than CIFAR has, so that a teacher has soon been through them all.
_CIFAR_IMAGES, _CIFAR_CLASSES = 12_800, 100
_FILES, _FILE_CLASSES, _FILE_SIZE = 640, 10, (480, 360)


@dataclass(frozen=True)
class Pair:
    """A teacher, a student, and what they are trained on.

    Args:
        title: For tables.
        teacher: Network by name; its weights are made up.
        student: Network by name.
        data: Data set by name; `cifar100` is made up where it does not lie, `files` always.
        batch_size: Images per step.
    """

    title: str
    teacher: str
    student: str
    data: str
    batch_size: int


PAIRS = {
    "embedded": Pair("28 x 28, 10 classes", "resnet20", "resnet8", "fashion-mnist-12k", 128),
    "cifar": Pair("32 x 32, 100 classes", "resnet56", "resnet14", "cifar100", 64),
    "large": Pair("224 x 224 from JPEG files", "timm:resnet18", "timm:mobilenetv3_small_100", "files", 32),
}


def load(pair: Pair, folder: Path, data_root: str | None) -> ImageData:
    """Return a pair's data set.

    Args:
        pair: The pair.
        folder: Where `prepare` put what it made.
        data_root: Folder with CIFAR-100, if there is one.
    """
    if pair.data == "files":
        return datasets.load(f"folder:{folder / 'images'}")
    if pair.data == "cifar100" and data_root is None:
        return _cifar_size()
    return datasets.load(pair.data, data_root)


def prepare(pair: Pair, folder: Path, data_root: str | None) -> Path:
    """Make what a pair needs and does not have, and return the file of the teacher's weights.

    The teacher is a random network whose batch norms know the images: without that its activations would
    grow from block to block as no trained network's do.
    """
    if pair.data == "files":
        _write_files(folder / "images")
    data = load(pair, folder, data_root)
    torch.manual_seed(0)
    teacher = models.build(pair.teacher, data.num_classes).train()
    for module in teacher.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the plain mean over the batches
    few = torch.arange(0, len(data.train), len(data.train) // 128)[:128]
    loader = Loader(
        data.train,
        mean=data.mean,
        std=data.std,
        batch_size=64,
        indices=few,
        image_size=data.image_size,
        workers=0,
    )
    with torch.no_grad():
        for batch in loader.epoch(0):
            teacher(batch.images)
    weights = folder / "teacher.safetensors"
    save_file({key: value.contiguous() for key, value in teacher.state_dict().items()}, weights)
    return weights


def write_cache(
    pair: Pair, folder: Path, data_root: str | None, weights: Path, precision: str, cpu: bool
) -> Path:
    """Run `cmkd cache` on what `prepare` made and return the folder of the cache."""
    from cmkd.training import CacheConfig, cache, images

    data = load(pair, folder, data_root)
    config = CacheConfig(
        path=str(folder / "cache"),
        data=data.name,
        teacher=pair.teacher,
        teacher_weights=str(weights),
        precision=precision,
        cpu=cpu,
    )
    # made-up images have no name that it knows
    with mock.patch.object(images.datasets, "load", return_value=data):
        cache(config)
    return folder / "cache"


def _cifar_size() -> ImageData:
    generator = torch.Generator().manual_seed(0)
    shape = (_CIFAR_IMAGES, 3, 32, 32)
    images = TensorImages(
        torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
        torch.randint(0, _CIFAR_CLASSES, (_CIFAR_IMAGES,), generator=generator),
    )
    return ImageData(
        name="cifar100",
        classes=tuple(f"class {number}" for number in range(_CIFAR_CLASSES)),
        train=images,
        test=images,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        image_size=32,
        augment="crop_flip",
    )


def _write_files(folder: Path) -> None:
    """Write JPEG files as large as photographs: coarse noise, scaled up, with a little grain."""
    from torchvision.io import write_jpeg

    generator = torch.Generator().manual_seed(0)
    width, height = _FILE_SIZE
    for number in range(_FILES):
        coarse = torch.rand(1, 3, height // 12, width // 12, generator=generator)
        smooth = nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0]
        grain = 0.04 * torch.randn(3, height, width, generator=generator)
        pixels = (255 * (smooth + grain)).clamp(0, 255).to(torch.uint8)
        part = "test" if number < _FILE_CLASSES else "train"
        file = folder / part / f"class{number % _FILE_CLASSES}" / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_jpeg(pixels, str(file), quality=90)

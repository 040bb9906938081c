"""What every contestant of `benchmarks/throughput.py` gets: the same networks, images and options."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from throughput_pairs import PAIRS, Pair, load
from throughput_turns import Turns
from torch import nn
from torch.utils.data import DataLoader, Dataset

from cmkd import models
from cmkd.data import ImageData, TensorImages

SGD: dict[str, Any] = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
TEMPERATURE, DISTILLATION_WEIGHT = 4.0, 0.9


@dataclass
class Work:
    """A pair on a device, and the turns in which it is trained.

    Args:
        pair: The teacher, the student and their data.
        folder: What was prepared, and where a run may write.
        weights: File of the teacher's weights.
        cache: Folder of the teacher's logits.
        device: Where to train.
        precision: Arithmetic of the limits and of cmkd: `fp32`, `bf16` or `fp16`.
        workers: Processes that make images.
        data_root: Folder with CIFAR-100, if there is one.
        turns: To be told of every step.
    """

    pair: Pair
    folder: Path
    weights: Path
    cache: Path
    device: torch.device
    precision: str
    workers: int
    data_root: str | None
    turns: Turns

    @cached_property
    def data(self) -> ImageData:
        """The data set."""
        return load(self.pair, self.folder, self.data_root)

    def student(self) -> nn.Module:
        """Return a new student in training mode."""
        torch.manual_seed(0)
        return models.build(self.pair.student, self.data.num_classes).to(self.device).train()

    def teacher(self) -> nn.Module:
        """Return the teacher, frozen, in eval mode."""
        teacher = models.build(self.pair.teacher, self.data.num_classes)
        models.load_weights(teacher, self.weights)
        return teacher.to(self.device).requires_grad_(False).eval()

    def autocast(self) -> torch.autocast:
        """Return a context in which networks compute in `precision`."""
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def fixed_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images `(B, 3, H, W)`, channels last, and targets `(B,)`, on the device."""
        generator = torch.Generator().manual_seed(0)
        size, batch = self.data.image_size, self.pair.batch_size
        images = torch.randn(batch, 3, size, size, generator=generator)
        targets = torch.randint(0, self.data.num_classes, (batch,), generator=generator)
        images = images.to(self.device).contiguous(memory_format=torch.channels_last)
        return images, targets.to(self.device)

    def dataset(self) -> Dataset:
        """Return the training images as today's codebases have them: PIL images, transformed one by one."""
        from torchvision import transforms
        from torchvision.datasets import ImageFolder

        data = self.data
        last = [transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        last.append(transforms.Normalize(data.mean, data.std))
        if not isinstance(data.train, TensorImages):
            first: list[Any] = [transforms.RandomResizedCrop(data.image_size)]
            return ImageFolder(self.folder / "images" / "train", transforms.Compose([*first, *last]))
        first = [transforms.RandomCrop(data.image_size, padding=data.image_size // 8)]
        if data.train.images.shape[1] == 1:
            first.insert(0, transforms.Grayscale(num_output_channels=3))
        return _PilImages(data.train, transforms.Compose([*first, *last]))

    def loader_options(self) -> dict[str, Any]:
        """Return the options that a `DataLoader` gets, but for the order."""
        return {
            "batch_size": self.pair.batch_size,
            "num_workers": self.workers,
            "drop_last": True,
            "pin_memory": self.device.type == "cuda",
        }

    def loader(self) -> DataLoader:
        """Return the batches of `dataset`."""
        return DataLoader(self.dataset(), shuffle=True, **self.loader_options())


class _PilImages(Dataset):
    """Images in memory, item by item, as torchvision's CIFAR has them."""

    def __init__(self, images: TensorImages, transform: Any) -> None:
        self.data = images.images.permute(0, 2, 3, 1).squeeze(-1).contiguous().numpy()
        self.targets = images.targets.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.data[index])), self.targets[index]


def open_work(spec: dict[str, Any], turns: Turns) -> Work:
    """Return the work that a contestant's process was started with."""
    return Work(
        pair=PAIRS[spec["pair"]],
        folder=Path(spec["folder"]),
        weights=Path(spec["weights"]),
        cache=Path(spec["cache"]),
        device=torch.device(spec["device"]),
        precision=spec["precision"],
        workers=spec["workers"],
        data_root=spec["data_root"],
        turns=turns,
    )

"""Images in class folders, decoded when they are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cmkd.data.augment import resized_crop
from cmkd.data.base import ImageData, split
from cmkd.errors import InputError

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, which pretrained networks expect
_IMAGE_SIZE = 224
_CENTRE = 7 / 8  # of the shorter side: the part that ImageNet's evaluation keeps (224 of 256)
_TEST_FRACTION = 0.2
_TEST_SPLIT_SEED = 0  # fixed: the test part must not depend on the seed of a run
_CHECKED_FILES = 100_000


class FolderImages:
    """Image files, decoded to RGB and brought to one size when they are read.

    Args:
        paths: The files.
        targets: Class of each, int64 `(N,)`.
        image_size: Side of what is read, in pixels.
    """

    def __init__(self, paths: Sequence[str], targets: Tensor, *, image_size: int) -> None:
        self.paths = paths
        self.targets = targets
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: Tensor, crops: Tensor | None = None) -> Tensor:
        """Decode images to uint8 `(B, 3, image_size, image_size)`.

        With `crops` a random resized crop of each. Without, the centre as ImageNet's evaluation takes it: the
        shorter side is scaled to 8/7 of `image_size`, and the middle is cut out.
        """
        images = []
        for position, index in enumerate(indices.tolist()):
            image = decode(self.paths[index])
            if crops is None:
                images.append(_centre_crop(image, self.image_size))
            else:
                images.append(resized_crop(image, crops[position], size=self.image_size))
        if not images:
            return torch.empty(0, 3, self.image_size, self.image_size, dtype=torch.uint8)
        return torch.stack(images)


def decode(path: str | os.PathLike[str]) -> Tensor:
    """Decode an image file of any format that Pillow knows, turned upright as its EXIF data says.

    Args:
        path: The file.

    Returns:
        uint8 `(3, H, W)`.

    Raises:
        InputError: If the file is missing, truncated or no image.
    """
    from PIL import Image, ImageOps
    from torchvision.transforms.v2 import functional as transforms

    try:
        with Image.open(path) as image:
            return transforms.pil_to_tensor(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read the image {path}: {error}. Replace it or remove it.") from error


def open_folder(path: Path, *, image_size: int | None = None) -> ImageData:
    """Your images: PATH/train and PATH/test (or val) with a folder per class, or class folders alone.

    Without a test part, 20 % of every class are set aside as one, always the same images.

    Args:
        path: The folder.
        image_size: Side of the images that the networks get, in pixels; 224 by default.

    Returns:
        The data set; normalisation is that of ImageNet.

    Raises:
        InputError: If there is no such folder, it has fewer than 2 classes, a class has no images, the parts
            have different classes, or a file is damaged. Up to 100,000 files are checked here; of a larger
            set a damaged file is named when it is read.
    """
    size = _IMAGE_SIZE if image_size is None else image_size
    if not path.is_dir():
        raise InputError(f"no such folder: {path}")
    _refuse_unknown_parts(path)
    parts = {part: path / part for part in ("train", "test", "val") if _has_folders(path / part)}
    train_folder, test_folder = parts.get("train", path), parts.get("test", parts.get("val"))
    classes = _classes(train_folder)
    train = _scan(train_folder, classes, size)
    if "train" in parts and test_folder is not None:
        _require_same_classes(train_folder, classes, test_folder)
        test = _scan(test_folder, classes, size)
    else:
        kept, held_out = split(train.targets, _TEST_FRACTION, _TEST_SPLIT_SEED)
        train, test = _part(train, kept), _part(train, held_out)
    return ImageData(
        name=f"folder:{path}",
        classes=classes,
        train=train,
        test=test,
        mean=_MEAN,
        std=_STD,
        image_size=size,
        augment="resized_crop_flip",
    )


def _has_folders(folder: Path) -> bool:
    # "train" may also be a class, beside "bus" and "car"; then images lie in it.
    return folder.is_dir() and any(entry.is_dir() for entry in folder.iterdir())


def _refuse_unknown_parts(path: Path) -> None:
    """Refuse folders of class folders that would be taken for classes themselves, or be left out."""
    named = [entry.name for entry in path.iterdir() if _has_folders(entry)]
    usable = {"train", "test", "val"} if "train" in named else set()
    unknown = sorted(set(named) - usable)
    if unknown:
        raise InputError(
            f"{path / unknown[0]} holds folders itself; call the parts {path / 'train'} and {path / 'test'} "
            "(or val), or put the class folders straight into the folder that you name."
        )


def _require_same_classes(train_folder: Path, classes: tuple[str, ...], test_folder: Path) -> None:
    different = sorted(set(classes) ^ set(_classes(test_folder)))
    if different:
        raise InputError(
            f"{train_folder} and {test_folder} have different class folders: {', '.join(different)} "
            "only in one of them."
        )


def _classes(folder: Path) -> tuple[str, ...]:
    names = sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    if len(names) < 2:
        found = f"one class folder ({names[0]})" if names else "no class folders"
        raise InputError(f"{folder} has {found}; give every class a folder of its own, at least 2 of them.")
    return tuple(names)


def _scan(folder: Path, classes: Sequence[str], image_size: int) -> FolderImages:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    paths: list[str] = []
    targets: list[int] = []
    for target, name in enumerate(classes):
        found = sorted(
            os.path.join(directory, file)  # noqa: PTH118 - a million Path objects would be felt
            for directory, _, files in os.walk(folder / name, followlinks=True)
            for file in files
            if file.lower().endswith(IMG_EXTENSIONS) and not file.startswith(".")
        )
        if not found:
            raise InputError(
                f"{folder / name} has no images; remove it or fill it ({', '.join(IMG_EXTENSIONS)} are read)."
            )
        paths += found
        targets += [target] * len(found)
    if len(paths) <= _CHECKED_FILES:
        for path in paths:
            _refuse_damaged(path)
    return FolderImages(paths, torch.tensor(targets), image_size=image_size)


def _refuse_damaged(path: str) -> None:
    """Raise if a file cannot be decoded; files that end as their format demands are taken to be whole."""
    with open(path, "rb") as file:  # noqa: PTH123 - as above
        head = file.read(8)
        file.seek(max(os.fstat(file.fileno()).st_size - 64, 0))
        tail = file.read()
    whole_jpeg = head.startswith(b"\xff\xd8\xff") and b"\xff\xd9" in tail
    whole_png = head.startswith(b"\x89PNG") and b"IEND" in tail
    if not (whole_jpeg or whole_png):
        decode(path)


def _part(images: FolderImages, indices: Tensor) -> FolderImages:
    paths = [images.paths[index] for index in indices.tolist()]
    return FolderImages(paths, images.targets[indices], image_size=images.image_size)


def _centre_crop(image: Tensor, size: int) -> Tensor:
    from torchvision.transforms.v2 import functional as transforms

    scaled = transforms.resize(image, [round(size / _CENTRE)], antialias=True)
    return transforms.center_crop(scaled, [size, size])


DATASETS: dict[str, Callable[..., ImageData]] = {"folder:": open_folder}

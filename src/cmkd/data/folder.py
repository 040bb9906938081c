"""Images in class folders, decoded when they are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cmkd.data.base import ImageData
from cmkd.data.decoding import DamagedImage, decode
from cmkd.data.stored import (
    PackedStrings,
    ReadOptions,
    StoredImages,
    as_image_data,
    bad_image,
)
from cmkd.errors import InputError
from cmkd.files import at_home

_CHECKED_FILES = 100_000


class FolderImages(StoredImages):
    """Image files.

    Args:
        paths: The files.
        targets: Class of each, int64 `(N,)`.
        options: How they are read.
    """

    def __init__(self, paths: Sequence[str], targets: Tensor, options: ReadOptions) -> None:
        super().__init__(targets, options)
        self.paths = paths

    def content(self, index: int) -> bytes:
        """Read a file."""
        with open(self.paths[index], "rb") as file:  # noqa: PTH123 - Path objects cost more than the call
            return file.read()

    def name(self, index: int) -> str:
        """Return its path."""
        return self.paths[index]

    def subset(self, indices: Tensor) -> FolderImages:
        """Return some of the files."""
        paths = PackedStrings(self.paths[index] for index in indices.tolist())
        return FolderImages(paths, self.targets[indices], self.options)


def open_folder(path: str, options: ReadOptions) -> ImageData:
    """Your images: PATH/train and PATH/test (or val) with a folder per class, or class folders alone.

    Without a test part, 20 % of every class are set aside as one, always the same images.

    Args:
        path: The folder.
        options: How its images are read.

    Returns:
        The data set; normalisation is that of ImageNet.

    Raises:
        InputError: If there is no such folder, it has fewer than 2 classes, a class has no images, the parts
            have different classes, or a file is damaged. Up to 100,000 files are checked here; of a larger
            set a damaged file is named when it is read, as are all that are to be skipped.
    """
    root = at_home(path)
    if not root.is_dir():
        raise InputError(f"no such folder: {root}")
    _refuse_unknown_parts(root)
    parts = {part: root / part for part in ("train", "test", "val") if _has_folders(root / part)}
    train_folder, test_folder = parts.get("train", root), parts.get("test", parts.get("val"))
    classes = _classes(train_folder)
    train: StoredImages = _scan(train_folder, classes, options)
    test: StoredImages | None = None
    if "train" in parts and test_folder is not None:
        _require_same_classes(train_folder, classes, test_folder)
        test = _scan(test_folder, classes, options)
    return as_image_data(f"folder:{path}", classes, train, test, options)


def _has_folders(folder: Path) -> bool:
    # "train" may also be a class, beside "bus" and "car"; then images lie in it.
    return folder.is_dir() and bool(_folders(folder))


def _folders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, but for hidden ones such as .git."""
    try:
        return sorted(
            entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")
        )
    except OSError as error:
        raise InputError(
            f"cannot read {folder}: {error.strerror}; move it away or mend its permissions."
        ) from error


def _refuse_unknown_parts(path: Path) -> None:
    """Refuse folders of class folders that would be taken for classes themselves, or be left out."""
    named = [name for name in _folders(path) if _has_folders(path / name)]
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
    names = _folders(folder)
    if len(names) < 2:
        found = f"one class folder ({names[0]})" if names else "no class folders"
        raise InputError(f"{folder} has {found}; give every class a folder of its own, at least 2 of them.")
    return tuple(names)


def _scan(folder: Path, classes: Sequence[str], options: ReadOptions) -> FolderImages:
    counts: list[int] = []

    def found_paths() -> Iterator[str]:
        for name in classes:
            found = _image_files(folder / name)
            counts.append(len(found))
            yield from found

    paths = PackedStrings(found_paths())
    if len(paths) <= _CHECKED_FILES and options.bad_images == "fail":
        for path in paths:
            _refuse_damaged(path)
    targets = torch.arange(len(classes)).repeat_interleave(torch.tensor(counts))
    return FolderImages(paths, targets, options)


def _image_files(folder: Path) -> list[str]:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    found = sorted(
        os.path.join(directory, file)  # noqa: PTH118 - a million Path objects would be felt
        for directory, _, files in os.walk(folder, followlinks=True)
        for file in files
        if file.lower().endswith(IMG_EXTENSIONS) and not file.startswith(".")
    )
    if not found:
        raise InputError(
            f"{folder} has no images; remove it or fill it ({', '.join(IMG_EXTENSIONS)} are read)."
        )
    return found


def _refuse_damaged(path: str) -> None:
    """Raise if a file cannot be decoded; files that end as their format demands are taken to be whole."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - as above
            head = file.read(8)
            file.seek(max(os.fstat(file.fileno()).st_size - 64, 0))
            tail = file.read()
            whole_jpeg = head.startswith(b"\xff\xd8\xff") and b"\xff\xd9" in tail
            whole_png = head.startswith(b"\x89PNG") and b"IEND" in tail
            if not (whole_jpeg or whole_png):
                file.seek(0)
                decode(file.read())
    except (DamagedImage, OSError) as error:
        raise bad_image(path, error) from error


DATASETS: dict[str, Callable[..., ImageData]] = {"folder:": open_folder}

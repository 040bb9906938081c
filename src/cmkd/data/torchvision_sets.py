"""CIFAR-10, CIFAR-100 and Fashion-MNIST in the folder layout that torchvision uses."""

from __future__ import annotations

import contextlib
import gzip
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cmkd.data.base import ImageData, TensorImages
from cmkd.data.embedded import fashion
from cmkd.errors import InputError

_DEFAULT_ROOT = Path("data")
_CIFAR_MEAN, _CIFAR_STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
_FASHION_PARTS = ("train", "t10k")


def cifar10(root: Path | None) -> ImageData:
    """50,000 + 10,000 colour images, 32 x 32, 10 classes (Krizhevsky 2009)."""
    from torchvision import datasets

    return _cifar("cifar10", datasets.CIFAR10, root)


def cifar100(root: Path | None) -> ImageData:
    """50,000 + 10,000 colour images, 32 x 32, 100 classes (Krizhevsky 2009)."""
    from torchvision import datasets

    return _cifar("cifar100", datasets.CIFAR100, root)


def fashion_mnist(root: Path | None) -> ImageData:
    """60,000 + 10,000 grey images of clothes, 28 x 28, 10 classes (Xiao et al. 2017)."""
    root = root or _DEFAULT_ROOT
    folder = _find_fashion(root)
    if folder is None:
        from torchvision import datasets

        _download(datasets.FashionMNIST, "fashion-mnist", root, "its four idx files (.gz or not)")
        folder = root / "FashionMNIST" / "raw"
    train, test = (
        TensorImages(
            torch.from_numpy(read_idx(folder, f"{official}-images-idx3-ubyte")).unsqueeze(1),
            torch.from_numpy(read_idx(folder, f"{official}-labels-idx1-ubyte").astype(np.int64)),
        )
        for official in _FASHION_PARTS
    )
    return fashion("fashion-mnist", train, test)


def read_idx(folder: Path, name: str) -> np.ndarray:
    """Read an idx file of unsigned bytes, the format of MNIST (LeCun et al. 1998).

    Args:
        folder: Where `name` or `name.gz` lies.
        name: For example `train-images-idx3-ubyte`.

    Returns:
        uint8, of the shape that the file states.

    Raises:
        InputError: If the file is absent, damaged or cut off.
    """
    file = next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
    if file is None:
        raise InputError(f"no {name} or {name}.gz in {folder}.")
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        zeros, kind, dimensions = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{dimensions}I", content, 4)
        pixels = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
        if (zeros, kind) != (0, 8):
            raise ValueError("no idx file of unsigned bytes")
        return pixels.reshape(shape).copy()
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise InputError(f"{file} is damaged ({error}); replace it.") from error


def _cifar(name: str, dataset: Callable[..., Any], root: Path | None) -> ImageData:
    root = root or _DEFAULT_ROOT
    folder: Path = root / dataset.base_folder  # type: ignore[attr-defined]
    if not folder.is_dir():
        _download(dataset, name, root, f"the folder {folder.name} of the python version")
    try:
        # torchvision compares the checksums before it unpickles anything.
        parts = [dataset(root, train=train) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"{folder} is incomplete or differs from the official files (checksum); replace it."
        ) from error
    train, test = (
        TensorImages(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
        for part in parts
    )
    return ImageData(
        name=name,
        classes=tuple(parts[0].classes),
        train=train,
        test=test,
        mean=_CIFAR_MEAN,
        std=_CIFAR_STD,
        image_size=32,
        augment="crop_flip",
    )


def _find_fashion(root: Path) -> Path | None:
    names = [f"{part}-{kind}-ubyte" for part in _FASHION_PARTS for kind in ("images-idx3", "labels-idx1")]
    for folder in (root, root / "FashionMNIST" / "raw"):
        if all((folder / name).exists() or (folder / f"{name}.gz").exists() for name in names):
            return folder
    return None


def _download(dataset: Callable[..., Any], name: str, root: Path, files: str) -> None:
    """Download a data set; its folder appears whole, whatever happens meanwhile."""
    existed = root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as temporary:
            dataset(temporary, download=True)
            for folder in Path(temporary).iterdir():
                if folder.is_dir():  # and not the archive that it came in
                    _move(folder, root / folder.name)
    except Exception as error:  # URLError, HTTPError, OSError, RuntimeError: whatever a download can run into
        if not existed:
            with contextlib.suppress(OSError):
                root.rmdir()
        raise InputError(
            f"{name} is not in {root} and could not be downloaded ({' '.join(str(error).split())}). "
            f"Put {files} into {root}, or name the folder that has them as the root."
        ) from error


def _move(folder: Path, place: Path) -> None:
    """Move a folder to its place at once; where one is already, the files that it lacks."""
    try:
        folder.rename(place)
    except OSError:  # another process was first, or a part of the set lies there
        for file in (entry for entry in folder.rglob("*") if entry.is_file()):
            target = place / file.relative_to(folder)
            if not target.is_file() or target.stat().st_size != file.stat().st_size:
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)


DATASETS: dict[str, Callable[[Path | None], ImageData]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "fashion-mnist": fashion_mnist,
}

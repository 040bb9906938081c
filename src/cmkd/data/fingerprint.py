"""Short hashes of what decides the pixels: the images and the augmentation.

Logits that were stored for a data set are of no use with another one, or with the same images in another
order; and a wrong pairing trains without complaint. The hashes notice it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator

import torch
from torch import Tensor

from cmkd.data import augment, decoding
from cmkd.data.base import Images, TensorImages
from cmkd.data.decoding import DamagedImage
from cmkd.data.stored import StoredImages

_HEX_DIGITS = 32
_DECODED = 64


def fingerprint(images: Images) -> str:
    """Return a hash of labelled images in their order.

    Images in memory are hashed whole. Of images with `paths` it is the paths below their common folder and
    the sizes of the files, so that a set that was moved or copied stays the same set. Of any other kind, 64
    images that lie evenly over the set: their bytes, or their pixels if there are no bytes. Targets are
    hashed in every case.

    Args:
        images: One part of a data set.

    Returns:
        32 hexadecimal digits.

    Raises:
        InputError: An image cannot be read.
    """
    # sha256 and not a faster hash of Python's: processors have instructions for it
    digest = hashlib.sha256(images.targets.numpy().tobytes())
    for part in _content(images):
        digest.update(part)
    return digest.hexdigest()[:_HEX_DIGITS]


def augmentation_hash(name: str) -> str:
    """Return a hash of an augmentation: another one for another name or another version of its code."""
    return hashlib.sha256(f"{name}, version {augment.VERSION}".encode()).hexdigest()[:_HEX_DIGITS]


def _content(images: Images) -> Iterator[bytes]:
    if isinstance(images, StoredImages):
        yield f"decoding, version {decoding.VERSION}".encode()
    if isinstance(images, TensorImages):
        pixels = images.images.cpu().contiguous()
        yield str(tuple(pixels.shape)).encode()
        yield from (image.tobytes() for image in pixels.numpy())
    elif paths := getattr(images, "paths", None):
        folder = os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH120
        for path in paths:
            relative = path.removeprefix(folder).replace(os.sep, "/").lstrip("/")
            yield os.fsencode(f"\n{relative} {os.stat(path).st_size}")  # noqa: PTH116 - once for every image
    elif isinstance(images, StoredImages):
        yield str(len(images)).encode()
        for index in _spread(images).tolist():
            # What cannot be read is as much a property of the set as what can.
            with contextlib.suppress(OSError, DamagedImage):
                yield hashlib.sha256(images.content(index)).digest()
    else:
        chosen = _spread(images)
        pixels = images.read(chosen)
        yield f"{len(images)} {tuple(pixels.shape)}".encode()
        yield pixels.cpu().numpy().tobytes()


def _spread(images: Images) -> Tensor:
    return torch.linspace(0, len(images) - 1, min(_DECODED, len(images))).long()

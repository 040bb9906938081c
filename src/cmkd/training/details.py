"""Reading what `cmkd.training.detailing` keeps of a run for the figures of its report."""

from __future__ import annotations

import hashlib
import json
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

STORED = "details.npz"
#: Goes up with a change of what is stored: files of another version are measured again.
VERSION = 1
#: The corruption that is looked at, and its severity.
ELASTIC, ELASTIC_SEVERITY = "elastic_transform", 3


class Details:
    """What is kept of a run: logits on some test images, small pictures of these, and what cost time to find.

    Args:
        file: `details.npz` of a run folder.

    Attributes:
        meta: What is no array: `network`, `classes`, `teacher`, `of` (images of the test set), `elastic`,
            `slice`, `embedding`, and `missing`, what is not there and why.
        layout: How the features are laid out: `tsne` or `umap`.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.meta: dict[str, Any] = json.loads(str(_array(file, "meta")))
        self.layout: str = self.meta.get("layout", "tsne")  # the only one at first

    @property
    def student(self) -> Tensor:
        """The student's logits `(N, C)`."""
        return torch.from_numpy(_array(self.file, "student"))

    @property
    def teacher(self) -> Tensor | None:
        """The teacher's logits `(N, C)` for the same images; None if it was not at hand."""
        return torch.from_numpy(_array(self.file, "teacher")) if "teacher" in self.meta else None

    @property
    def targets(self) -> Tensor:
        """Class indices `(N,)`."""
        return torch.from_numpy(_array(self.file, "targets"))

    @property
    def indices(self) -> Tensor:
        """Index of every image in the test set, `(N,)`."""
        return torch.from_numpy(_array(self.file, "indices"))

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """Return an array by name: `slice_student`, `slice_teacher`, `embedding`, `embedding_targets`."""
        return _array(self.file, name)

    def picture(self, position: int) -> bytes:
        """Return a small picture of the image at a position, as a WebP file."""
        ends = _array(self.file, "picture_ends")
        begin = 0 if position == 0 else int(ends[position - 1])
        return _array(self.file, "pictures")[begin : int(ends[position])].tobytes()


def read_details(run: Path) -> Details | None:
    """Return what is kept of a run; None if there is nothing, or nothing of the weights that are there.

    A run folder without weights, as one that is passed on to be read, keeps its details.
    """
    try:
        details = Details(run / STORED)
        current = details.meta["version"] == VERSION
        if (run / "student.safetensors").exists():
            current = current and details.meta["weights"] == weights_of(run)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None  # damaged: measured again
    return details if current else None


def weights_of(run: Path) -> str:
    """Return the hash of a run's weights file."""
    return hashlib.sha256((run / "student.safetensors").read_bytes()).hexdigest()


def _array(file: Path, name: str) -> np.ndarray[Any, Any]:
    return _read(file, name, file.stat().st_mtime_ns)


@lru_cache(maxsize=24)  # a few runs at a time: a page over dozens must not hold all of them
def _read(file: Path, name: str, changed: int) -> np.ndarray[Any, Any]:
    with np.load(file) as stored:
        found: np.ndarray[Any, Any] = stored[name]
    return found

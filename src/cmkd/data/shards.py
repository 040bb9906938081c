"""Images in tar shards, the WebDataset layout, read at random by an index of our own.

The `webdataset` library streams: it shuffles within a buffer, splits whole shards among processes, and
cannot go on in the middle of an epoch. With the place of every image known, a shard is like any other set
that is read by index: the order is a permutation of all images, every process gets its exact part of every
batch, a run resumes in the middle of an epoch, and nothing but the index is kept in memory.
"""

from __future__ import annotations

import glob
import itertools
import logging
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmkd.data.base import ImageData
from cmkd.data.decoding import DamagedImage
from cmkd.data.stored import ReadOptions, StoredImages, as_image_data
from cmkd.data.tar_index import DAMAGED, PROBLEMS, member_name, read_index
from cmkd.errors import InputError
from cmkd.files import at_home

logger = logging.getLogger(__name__)

_PARTS = {"train": "train", "test": "test", "val": "val", "validation": "val", "valid": "val"}
_CLASS_FILES = ("classes.txt", "classnames.txt")
_MOST_CLASSES = 1_000_000
_OPEN_FILES = 64


class ShardImages(StoredImages):
    """Images in tar files.

    Args:
        shards: The files.
        rows: Where each image lies, an array of `tar_index.ROW`.
        options: How they are read.
    """

    def __init__(self, shards: Sequence[Path], rows: np.ndarray, options: ReadOptions) -> None:
        super().__init__(torch.from_numpy(rows["target"].astype(np.int64)), options)
        self.shards = shards
        self._rows = rows
        self._files: OrderedDict[int, FileIO] = OrderedDict()
        self._owner = os.getpid()

    def content(self, index: int) -> bytes:
        """Read an image's bytes."""
        row = self._rows[index]
        file = self._open(int(row["shard"]))
        file.seek(int(row["offset"]))
        content = file.read(int(row["size"]))
        if content is None or len(content) != row["size"]:
            raise DamagedImage(f"the shard ends {row['size'] - len(content or b'')} bytes before it does")
        return content

    def name(self, index: int) -> str:
        """Return shard and name within it."""
        row = self._rows[index]
        shard = self.shards[row["shard"]]
        try:
            return f"{shard}:{member_name(shard, int(row['offset']))}"
        except OSError:
            return f"{shard}, byte {row['offset']}"

    def subset(self, indices: Tensor) -> ShardImages:
        """Return some of the images."""
        return ShardImages(self.shards, self._rows[indices.numpy()], self.options)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}

    def _open(self, number: int) -> FileIO:
        if self._owner != os.getpid():  # a worker: files inherited from the parent share its position
            self._files, self._owner = OrderedDict(), os.getpid()
        if number not in self._files:
            if len(self._files) >= _OPEN_FILES:
                self._files.popitem(last=False)[1].close()
            self._files[number] = FileIO(self.shards[number], "rb")
        self._files.move_to_end(number)
        return self._files[number]


def open_shards(pattern: str, options: ReadOptions) -> ImageData:
    """Tar shards in the WebDataset layout: a folder, or a pattern such as data/{train,val}-{000..146}.tar.

    Shards belong to the part that a word in their name, or the name of their folder, says: train, test or
    val. Where none does, all are for training, and 20 % of every class are set aside for the test, always the
    same images.

    Args:
        pattern: Folder with `.tar` files (in it or one level below), or their paths with `*`, `?`, `[...]`,
            `{a,b}` and `{000..999}`.
        options: How the images are read.

    Returns:
        The data set; normalisation is that of ImageNet. Classes are named by `classes.txt` (or
        `classnames.txt`), a name per line, beside the shards or one level above; by their numbers without.

    Raises:
        InputError: No shard is found or one that is named is missing, empty or damaged; a sample has no image
            or no label. With `bad_images="skip"` what is empty, damaged or incomplete is left out with a
            warning that counts it.
    """
    parts = _by_part(expand(pattern))
    held = {part: _indexed(shards, options) for part, shards in parts.items()}
    train: StoredImages
    test: StoredImages | None
    train, test = held["train"], held.get("test", held.get("val"))
    classes = _classes(parts["train"][0], [images for images in (train, test) if images is not None])
    return as_image_data(f"wds:{pattern}", classes, train, test, options)


def expand(pattern: str) -> list[Path]:
    """Return the files that a pattern means, sorted within every brace alternative.

    Raises:
        InputError: There is none, or one that is named in full does not exist.
    """
    pattern = str(at_home(pattern))
    if Path(pattern).is_dir():
        found = sorted([*Path(pattern).glob("*.tar"), *Path(pattern).glob("*/*.tar")])
        if not found:
            raise InputError(f"{pattern} has no .tar files, nor have the folders in it.")
        return found
    shards: dict[Path, None] = {}
    for path in _braces(pattern):
        matching = [path] if Path(path).is_file() else sorted(glob.glob(path))  # noqa: PTH207 - absolute too
        if not matching:
            raise InputError(f"no such shard: {path}. Check the pattern {pattern!r}.")
        shards |= dict.fromkeys(map(Path, matching))
    return list(shards)


def _braces(pattern: str) -> list[str]:
    """Expand `{a,b}` and `{000..123}`, from the innermost outwards."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    inner = match.group(1)
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", inner)
    if numbers:
        first, last = numbers.groups()
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        choices = [str(number).zfill(width) for number in range(int(first), int(last) + 1)]
        if not choices:
            raise InputError(f"{{{inner}}} in {pattern!r} counts backwards; write {{{last}..{first}}}.")
    else:
        choices = inner.split(",")
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return list(itertools.chain.from_iterable(_braces(head + choice + tail) for choice in choices))


def _by_part(shards: Sequence[Path]) -> dict[str, list[Path]]:
    parts: dict[str, list[Path]] = {}
    unnamed: list[Path] = []
    for shard in shards:
        words = re.split(r"[^a-z]+", shard.stem.lower())
        part = next((_PARTS[word] for word in (*words, shard.parent.name.lower()) if word in _PARTS), None)
        (unnamed if part is None else parts.setdefault(part, [])).append(shard)
    if unnamed and set(parts) - {"train"}:
        raise InputError(
            f"{unnamed[0]} belongs to no part, while {parts.popitem()[1][0]} does; say train, val or test in "
            "the name of every shard or of its folder."
        )
    if unnamed or set(parts) == {"train"}:
        return {"train": list(shards)}
    if "train" not in parts:
        raise InputError(
            f"all shards belong to the part {' or '.join(parts)}; name those for training too, for example "
            "with data/{train,val}-*.tar."
        )
    return parts


def _indexed(shards: Sequence[Path], options: ReadOptions) -> ShardImages:
    try:
        rows = read_index(shards)
    except OSError as error:
        raise InputError(f"cannot read the shards: {error}") from error
    counts = np.bincount(rows["shard"], minlength=len(shards))
    empty = [shard for shard, count in zip(shards, counts, strict=True) if not count]
    bad = rows[rows["problem"] != 0]
    problems = [f"{shard} has no images" for shard in empty[:1]]
    problems += [_described(shards[row["shard"]], row) for row in bad[:1]]
    if problems:
        count = f"{len(empty)} empty shards and {len(bad)} bad samples in {len(shards)} shards"
        if options.bad_images == "fail":
            raise InputError(f"{problems[0]} ({count}). Mend or remove it, or take --bad_images skip.")
        logger.warning("left out %s; for example, %s.", count, " and ".join(problems))
        rows = rows[rows["problem"] == 0]
    return ShardImages(shards, rows, options)


def _described(shard: Path, row: np.ndarray) -> str:
    if row["problem"] == DAMAGED:
        return f"{shard}, byte {row['offset']}, {PROBLEMS[DAMAGED]}"
    return f"{shard}: the sample of {member_name(shard, int(row['offset']))} {PROBLEMS[row['problem']]}"


def _classes(shard: Path, parts: Sequence[StoredImages]) -> tuple[str, ...]:
    for folder in (shard.parent, shard.parent.parent):
        for file in (folder / name for name in _CLASS_FILES):
            if file.is_file():
                try:
                    names = file.read_text(encoding="utf-8-sig")  # some editors put a mark in front
                except UnicodeDecodeError as error:
                    raise InputError(
                        f"{file} is not in UTF-8 ({error}); save it in that encoding."
                    ) from error
                return tuple(names.strip().splitlines())
    highest = max((int(images.targets.max()) for images in parts if len(images)), default=-1)
    if highest >= _MOST_CLASSES:
        raise InputError(f"the shards have a label {highest}; labels count the classes from 0.")
    return tuple(str(label) for label in range(highest + 1))


DATASETS: dict[str, Callable[..., ImageData]] = {"wds:": open_shards}

"""Where every image lies in tar shards: built once, kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cmkd.kernels.compiling import make_user_folder

logger = logging.getLogger(__name__)

ROW = np.dtype([("shard", "<i4"), ("problem", "<i4"), ("offset", "<i8"), ("size", "<i8"), ("target", "<i8")])
"""A row per image: number of its shard, one of `PROBLEMS`, place and length of the file in bytes, class."""

PROBLEMS = (
    "",
    "has no label (a member .cls with the number of the class, or .json with a number under 'label')",
    "has a label that is no whole number from 0",
    "has no image",
    "has more than one image",
    "cannot be read: the file is damaged from there on",
)
_NO_LABEL, _BAD_LABEL, _NO_IMAGE, _TWO_IMAGES, DAMAGED = range(1, 6)

IMAGE_ENDINGS = frozenset({"jpg", "jpeg", "png", "webp", "ppm", "pgm", "bmp", "tif", "tiff", "gif"})
_VERSION = 1  # of the rows and of how they are made
_LABEL_BYTES = 1 << 20  # a .json may hold more than the label, but not a file by mistake


def read_index(shards: Sequence[Path]) -> np.ndarray:
    """Return the rows of some shards, from the cache folder if the shards have not changed since.

    Args:
        shards: Tar files, not compressed.

    Returns:
        An array of `ROW`, in the order of the shards and within them of the members.

    Raises:
        OSError: A shard cannot be opened.
    """
    name = _file_name(shards)
    try:
        folder = make_user_folder() / "shards"
        folder.mkdir(exist_ok=True)
    except (OSError, RuntimeError) as error:  # no room, or no home
        folder = None
        logger.warning("cannot keep the index of the shards (%s); it is not reused.", error)
    kept = None if folder is None else _load(folder / name)
    if kept is not None:
        return kept
    logger.info("indexing %d shards, once", len(shards))
    rows = np.concatenate(
        [np.fromiter(_rows(number, shard), dtype=ROW) for number, shard in enumerate(shards)]
    )
    if folder is not None:
        _save(folder / name, rows)
    return rows


def member_name(shard: Path, offset: int) -> str:
    """Return the name of the member whose content begins at an offset; the header before it has it."""
    with shard.open("rb") as file:
        file.seek(max(offset - tarfile.BLOCKSIZE, 0))
        header = file.read(tarfile.BLOCKSIZE)
    return header[:100].rstrip(b"\0").decode("utf-8", "replace")


def _rows(number: int, shard: Path) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield a row for every sample: neighbouring members whose names agree up to the first dot."""
    sample: _Sample | None = None
    damaged_from: int | None = None
    with shard.open("rb") as file:
        for member in _members(file):
            if isinstance(member, int):
                damaged_from = member
                break
            folder, _, base = member.name.rpartition("/")
            if not member.isfile() or base.startswith("."):
                continue
            stem, _, ending = base.partition(".")
            key = f"{folder}/{stem}"
            if sample is None or sample.key != key:
                if sample is not None:
                    yield (number, *sample.row())
                sample = _Sample(key, member.offset_data)
            sample.add(ending.lower(), member, file)
    if sample is not None and (damaged_from is None or sample.row()[0] == 0):
        yield (number, *sample.row())
    if damaged_from is not None:
        yield number, DAMAGED, damaged_from, 0, -1


def _members(file: BinaryIO) -> Iterator[tarfile.TarInfo | int]:
    """Yield the members of a shard; last, if it does not end as a tar file must, the place of the damage."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    # Nothing, or the block that ends an archive: there the tarfile of Python 3.10 looks before the begin.
    if not size or file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE):
        return
    file.seek(0)
    try:
        tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - the file is not ours to close
    except tarfile.ReadError:
        yield 0
        return
    try:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # tarfile keeps them all, which would be felt
            if member.offset_data + member.size > size:
                yield member.offset_data
                return
            yield member
    except tarfile.ReadError:
        yield tar.offset
        return
    # tarfile takes a broken header for the end; the true end is a block of zeros.
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        yield tar.offset


class _Sample:
    def __init__(self, key: str, offset: int) -> None:
        self.key = key
        self.offset = offset  # of any member: it leads to the name
        self.images: list[tuple[int, int]] = []
        self.labels: dict[str, bytes] = {}

    def add(self, ending: str, member: tarfile.TarInfo, file: BinaryIO) -> None:
        if ending.rpartition(".")[2] in IMAGE_ENDINGS:
            self.images.append((member.offset_data, member.size))
        elif ending in {"cls", "json"} and member.size <= _LABEL_BYTES:
            file.seek(member.offset_data)
            self.labels[ending] = file.read(member.size)

    def row(self) -> tuple[int, int, int, int]:
        target = self._target()
        problem = 0
        if len(self.images) != 1:
            problem = _TWO_IMAGES if self.images else _NO_IMAGE
        elif target is None:
            problem = _NO_LABEL
        elif target < 0:
            problem = _BAD_LABEL
        offset, size = self.images[0] if self.images else (self.offset, 0)
        return problem, offset, size, -1 if target is None else target

    def _target(self) -> int | None:
        """Return the class, None without a label, -1 for one that cannot be used."""
        try:
            if "cls" in self.labels:
                label = int(self.labels["cls"])
            elif "json" in self.labels:
                label = json.loads(self.labels["json"]).get("label")
                if label is None:
                    return None
            else:
                return None
        except (ValueError, AttributeError):
            return -1
        return label if isinstance(label, int) and 0 <= label < 2**31 else -1


def _file_name(shards: Sequence[Path]) -> str:
    """Return the name of the file that keeps their index as long as they do not change."""
    digest = hashlib.sha256(str(_VERSION).encode())
    for shard in shards:
        stat = shard.stat()
        digest.update(os.fsencode(f"{shard.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0"))
    return f"{digest.hexdigest()[:32]}.npy"


def _load(file: Path) -> np.ndarray | None:
    try:
        rows = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return rows if rows.dtype == ROW and rows.ndim == 1 else None


def _save(file: Path, rows: np.ndarray) -> None:
    """Keep the index, whole or not at all; without a place for it, it is built again next time."""
    temporary = None
    try:
        # A name of its own: several processes may index the same shards at once.
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".tmp", delete=False) as out:
            temporary = Path(out.name)
            np.save(out, rows)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        logger.warning(
            "cannot keep the index of the shards in %s (%s); it is not reused.", file.parent, error
        )

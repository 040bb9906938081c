"""Writing a teacher cache: whole shards, in any number of processes, to be killed at any instant."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from cmkd.errors import InputError
from cmkd.files import write_atomic
from cmkd.teachers.cache_format import (
    MANIFEST,
    Manifest,
    checksum,
    differences,
    read_manifest,
    shard_bytes,
    shard_file,
)

_JOURNAL = "written.jsonl"
_OWN_FILES = {".lock", f".{MANIFEST}.tmp"}  # of a writer that was killed before it had a manifest

Shard = tuple[int, int]
"""A view, and the number of a shard in it."""


def write_cache(
    path: Path,
    planned: Manifest,
    logits_of: Callable[[int, Tensor], Iterable[Tensor]],
    *,
    views: int,
    rank: int = 0,
    world_size: int = 1,
    on_shard: Callable[[int, int], None] | None = None,
) -> bool:
    """Write what is missing of a cache.

    The processes share the shards by number and do not talk to each other: the one that finds all shards
    written completes the manifest. One that dies is replaced by repeating the command.

    Args:
        path: Folder of the cache; made if need be.
        planned: What the cache is to hold, without views.
        logits_of: Yields the teacher's logits `(B, classes)` for a view and indices `(N,)`, in their order
            and in batches of any size.
        views: Number of views; those that a finished cache has are kept.
        rank: Number of this process.
        world_size: Number of processes.
        on_shard: Called after each shard with the images written and the images to write, by this process.

    Returns:
        Whether the cache is whole; otherwise other processes are still writing.

    Raises:
        InputError: The folder holds something else or the cache of something else, another process writes
            these shards, it cannot be written, or the logits cannot be stored in the type.
    """
    with _claim(path, planned) as cache:
        mine = cache.all_shards(views)[rank::world_size]
        cache.lock(mine)
        todo = [shard for shard in mine if not cache.is_written(shard)]
        total, done = sum(cache.manifest.rows(number) for _, number in todo), 0
        for view in sorted({view for view, _ in todo}):
            numbers = [number for each, number in todo if each == view]
            counts = [cache.manifest.rows(number) for number in numbers]
            indices = torch.cat([cache.indices(number) for number in numbers])
            for number, logits in zip(numbers, _regrouped(logits_of(view, indices), counts), strict=True):
                cache.store((view, number), _stored(logits, cache.manifest, cache.indices(number)))
                done += len(logits)
                if on_shard is not None:
                    on_shard(done, total)
        return cache.finish(views)


class _Cache:
    """A cache that is being written; `lock` is the open lock file."""

    def __init__(self, path: Path, manifest: Manifest, lock: IO[str]) -> None:
        self.path = path
        self.manifest = manifest
        self._lock = lock
        self._checksums = _known_checksums(path, manifest)

    def all_shards(self, views: int) -> list[Shard]:
        views = max(views, self.manifest.views)
        return [(view, number) for view in range(views) for number in range(self.manifest.shards)]

    def indices(self, number: int) -> Tensor:
        start = number * self.manifest.shard_rows
        return torch.arange(start, start + self.manifest.rows(number))

    def lock(self, shards: Sequence[Shard]) -> None:
        """Take shards for this process, until it ends."""
        for view, number in shards:
            # Every shard has a byte of the lock file; the first byte is that of the manifest.
            position = 1 + view * self.manifest.shards + number
            if not _lock_byte(self._lock, position, wait=False):
                raise InputError(
                    f"{shard_file(self.path, view, number)} is being written by another process; wait for "
                    "it, or give every process a RANK of its own."
                )

    def is_written(self, shard: Shard) -> bool:
        file = shard_file(self.path, *shard)
        right_size = file.is_file() and file.stat().st_size == self.manifest.file_size(shard[1])
        return shard in self._checksums and right_size

    def store(self, shard: Shard, rows: np.ndarray) -> None:
        content = shard_bytes(rows)
        line = json.dumps({"view": shard[0], "shard": shard[1], "crc32": checksum(content)})
        with _told_to_repeat():
            write_atomic(shard_file(self.path, *shard), content)
            with _exclusive(self._lock), (self.path / _JOURNAL).open("a", encoding="utf-8") as journal:
                journal.write(f"\n{line}\n")  # a line that was cut off by a power failure stands alone
                journal.flush()
                os.fsync(journal.fileno())

    def finish(self, views: int) -> bool:
        """Complete the manifest if all shards are written; say whether they are."""
        with _told_to_repeat(), _exclusive(self._lock):
            self.manifest = read_manifest(self.path)
            self._checksums = _known_checksums(self.path, self.manifest)
            shards = self.all_shards(views)
            if not all(self.is_written(shard) for shard in shards):
                return False
            count = self.manifest.shards
            checksums = [self._checksums[shard] for shard in shards]
            by_view = [checksums[start : start + count] for start in range(0, len(checksums), count)]
            self.manifest = replace(self.manifest, checksums=by_view)
            write_atomic(self.path / MANIFEST, self.manifest.as_json())
            if not set(self._checksums) - set(shards):  # else somebody is adding further views
                (self.path / _JOURNAL).unlink(missing_ok=True)
            return True


@contextlib.contextmanager
def _claim(path: Path, planned: Manifest) -> Iterator[_Cache]:
    """Make the folder, or take up what is in it."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; give a folder for the teacher cache.")
    held = {entry.name for entry in path.iterdir()} if path.exists() else set()
    foreign = [] if MANIFEST in held else sorted(held - _OWN_FILES)
    if foreign:
        raise InputError(f"{path} exists and is no teacher cache (it holds {foreign[0]!r}); choose another.")
    created = not path.exists()
    with contextlib.ExitStack() as stack:
        with _told_to_repeat():
            path.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((path / ".lock").open("a"))
        try:
            with _exclusive(lock):
                manifest = _manifest(path, planned)
        except InputError:
            # Unless another process is at work in it by now.
            if created and [entry.name for entry in path.iterdir()] == [".lock"]:
                (path / ".lock").unlink()
                path.rmdir()
            raise
        yield _Cache(path, manifest, lock)


def _manifest(path: Path, planned: Manifest) -> Manifest:
    """Return the manifest of the folder, which gets the planned one if it is new."""
    if not (path / MANIFEST).exists():
        write_atomic(path / MANIFEST, planned.as_json())
        return planned
    there = read_manifest(path)
    if differing := differences(there.identity, planned.identity):
        raise InputError(
            f"{path} is the cache of something else ({'; '.join(differing)}). Give another folder, or what "
            "that cache was begun with."
        )
    return there


def _known_checksums(path: Path, manifest: Manifest) -> dict[Shard, int]:
    known = {
        (view, number): value
        for view, checksums in enumerate(manifest.checksums)
        for number, value in enumerate(checksums)
    }
    with contextlib.suppress(FileNotFoundError):
        for line in (path / _JOURNAL).read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # an empty line, or one that was cut off
                row = json.loads(line)
                known[row["view"], row["shard"]] = row["crc32"]
    return known


def _regrouped(batches: Iterable[Tensor], counts: Sequence[int]) -> Iterator[Tensor]:
    """Yield the rows of batches in groups of the given sizes."""
    source, held, rows = iter(batches), [], 0
    for count in counts:
        while rows < count:
            held.append(next(source))
            rows += len(held[-1])
        together = torch.cat(held)
        yield together[:count]
        held, rows = [together[count:]], rows - count


def _stored(logits: Tensor, manifest: Manifest, indices: Tensor) -> np.ndarray:
    """Return logits in the type they are stored in; refuse what it cannot hold."""
    dtype = getattr(torch, manifest.identity["dtype"])
    rows = logits.to(dtype).cpu()
    bad = (~rows.isfinite()).any(1).nonzero().flatten()
    if len(bad):
        image, values = int(indices[bad[0]]), logits[bad[0]].cpu()
        if not values.isfinite().all():
            raise InputError(
                f"the teacher's logits for image {image} are not finite; check its weights and its "
                "normalisation, or take --precision fp32."
            )
        raise InputError(
            f"the teacher's logits for image {image} reach {values.abs().max().item():g}, beyond what "
            f"float16 holds ({torch.finfo(dtype).max:g}); give another folder and --dtype float32."
        )
    return rows.numpy()


@contextlib.contextmanager
def _told_to_repeat() -> Iterator[None]:
    """Say of everything that cannot be written that nothing written before is lost."""
    try:
        yield
    except (OSError, InputError) as error:
        said = error if isinstance(error, InputError) else f"cannot write the teacher cache: {error}."
        raise InputError(
            f"{said} What was written before is intact: repeat the command to go on from there."
        ) from error


@contextlib.contextmanager
def _exclusive(lock: IO[str]) -> Iterator[None]:
    """Hold the manifest and the journal."""
    _lock_byte(lock, 0, wait=True)
    try:
        yield
    finally:
        _lock_byte(lock, 0, wait=True, release=True)


def _lock_byte(lock: IO[str], position: int, *, wait: bool, release: bool = False) -> bool:
    """Lock or release one byte of a file; return whether that was possible.

    A record lock: the system drops it when the process dies, and worker processes do not inherit it.
    """
    try:
        import fcntl
    except ImportError:  # not on this platform: nobody is kept out
        return True
    operation = fcntl.LOCK_UN if release else fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)
    try:
        fcntl.lockf(lock, operation, 1, position)
    except (BlockingIOError, PermissionError):  # which of the two depends on the system
        return False
    except OSError as error:
        raise InputError(
            f"cannot lock {lock.name}: {error.strerror}; give a folder on a file system with locks."
        ) from error
    return True

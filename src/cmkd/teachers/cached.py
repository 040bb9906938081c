"""A teacher whose logits were written down once (`cmkd cache`), called like the network itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cmkd.data import Batch
from cmkd.errors import InputError
from cmkd.files import at_home
from cmkd.teachers.cache_format import Manifest, map_shard, read_manifest, require_size, shard_file

#: A view of at most so many bytes is copied into one piece, out of which rows are taken several times faster.
_SMALL_VIEW = 64 << 20


class CachedTeacher:
    """Answers a batch with the logits that were stored for its images and its view.

    The files are mapped read-only: any number of runs read the same pages of memory. Their lengths are
    checked here, their checksums when a view is first used.

    Args:
        path: Folder of the cache.
        views: Number of views that will be asked for; those that the cache holds by default.

    Raises:
        InputError: The folder is no cache, it is unfinished or damaged, or it has fewer views.
    """

    def __init__(self, path: str | Path, *, views: int | None = None) -> None:
        self.path = at_home(path)
        self.manifest: Manifest = read_manifest(self.path)
        held = self.manifest.views
        if held == 0:
            raise InputError(
                f"teacher cache {self.path} is unfinished; repeat the `cmkd cache` command to finish it."
            )
        self.views = held if views is None else views
        if self.views > held:
            raise InputError(
                f"teacher cache {self.path} has views: {held}, asked for are {self.views}; give --views "
                f"{held}, or add to the cache by `cmkd cache` with --views {self.views}."
            )
        for view in range(self.views):
            for shard in range(self.manifest.shards):
                require_size(self.manifest, shard_file(self.path, view, shard), shard)
        self._view: int | None = None
        self._shards: list[np.ndarray] = []
        self._verified: set[int] = set()

    def __call__(self, batch: Batch) -> Tensor:
        """Return logits `(B, C)` in float32 on the batch's device.

        Args:
            batch: A batch of the data set that the cache was written for.

        Raises:
            InputError: The view is not in the cache, or a file is damaged.
        """
        indices = batch.indices if batch.host_indices is None else batch.host_indices
        rows = self.rows(batch.view, indices.cpu().numpy())
        return torch.from_numpy(rows).to(batch.indices.device, non_blocking=True).float()

    def rows(self, view: int, indices: np.ndarray) -> np.ndarray:
        """Return the stored logits `(B, C)` of images in a view, in the type they are stored in.

        Args:
            view: Below `views`.
            indices: Indices of the images in the data set, int64 `(B,)`.

        Raises:
            InputError: The view is not in the cache, or a file is damaged.
        """
        if not 0 <= view < self.views:
            raise InputError(f"view {view} is asked of teacher cache {self.path}, opened with {self.views}.")
        if view != self._view:
            self._open(view)
        if len(self._shards) == 1:
            return self._shards[0].take(indices, axis=0)
        # Sorted, the rows of a shard are neighbours: one call fetches them.
        order = indices.argsort()
        ordered = indices[order]
        if len(ordered) and not 0 <= ordered[0] <= ordered[-1] < self.manifest.identity["samples"]:
            raise IndexError(f"image {ordered[-1]} of {self.manifest.identity['samples']}")
        starts = np.arange(len(self._shards) + 1) * self.manifest.shard_rows
        ends = np.searchsorted(ordered, starts).tolist()
        fetched = np.empty((len(indices), self.manifest.identity["classes"]), self.manifest.dtype)
        for shard, begin, end, start in zip(self._shards, ends, ends[1:], starts.tolist(), strict=False):
            if end > begin:
                # "clip" writes in place, where "raise" takes a copy; the range was checked above
                shard.take(ordered[begin:end] - start, axis=0, out=fetched[begin:end], mode="clip")
        found = np.empty_like(fetched)
        found[order] = fetched
        return found

    def verify(self) -> int:
        """Compare the checksum of every shard; return the number of bytes.

        Raises:
            InputError: A file is damaged.
        """
        return sum(
            map_shard(self.manifest, self.path, view, shard, verify=True).nbytes
            for view in range(self.views)
            for shard in range(self.manifest.shards)
        )

    def _open(self, view: int) -> None:
        """Map the shards of a view; those of another one are let go: each keeps a file open."""
        verify = view not in self._verified
        self._view, self._shards = None, []
        shards = [
            map_shard(self.manifest, self.path, view, shard, verify=verify)
            for shard in range(self.manifest.shards)
        ]
        small = sum(shard.nbytes for shard in shards) <= _SMALL_VIEW
        self._view, self._shards = view, [np.concatenate(shards)] if small else shards
        self._verified.add(view)

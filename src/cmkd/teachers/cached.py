"""A teacher whose logits were written down once (`cmkd cache`), called like the network itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cmkd.data import Batch
from cmkd.errors import InputError
from cmkd.teachers.cache_format import Manifest, map_shard, read_manifest, require_size, shard_file


class CachedTeacher:
    """Answers a batch with the logits that were stored for its images and its view.

    The files are mapped read-only: any number of runs read the same pages of memory. Their lengths are
    checked here, their checksums when they are first used.

    Args:
        path: Folder of the cache.
        views: Number of views that will be asked for; those that the cache holds by default.

    Raises:
        InputError: The folder is no cache, it is unfinished or damaged, or it has fewer views.
    """

    def __init__(self, path: str | Path, *, views: int | None = None) -> None:
        self.path = Path(path).expanduser()
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
        self._mapped: dict[int, np.ndarray] = {}
        self._mapped_view = 0
        self._verified: set[tuple[int, int]] = set()

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
        shards, rows = np.divmod(indices, self.manifest.shard_rows)
        if self.manifest.shards == 1:
            return self._shard(view, 0).take(rows, axis=0)
        found = np.empty((len(indices), self.manifest.identity["classes"]), self.manifest.dtype)
        for number in np.unique(shards).tolist():
            where = np.flatnonzero(shards == number)
            found[where] = self._shard(view, number)[rows[where]]
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

    def _shard(self, view: int, number: int) -> np.ndarray:
        if view != self._mapped_view:  # a map keeps its file open, and the system allows only so many
            self._mapped, self._mapped_view = {}, view
        if number not in self._mapped:
            fresh = (view, number) not in self._verified
            self._mapped[number] = map_shard(self.manifest, self.path, view, number, verify=fresh)
            self._verified.add((view, number))
        return self._mapped[number]

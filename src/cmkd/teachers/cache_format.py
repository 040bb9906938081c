"""What a teacher cache looks like on disk.

    PATH/manifest.json      what the logits belong to, and a checksum of every shard
    PATH/view000/00000.npy  logits of the first images in view 0, one row each, float16 or float32
    PATH/written.jsonl      shards that are written while the cache is not whole: where to go on

The manifest counts a view only when all its shards are there, so that what it counts can be read.
"""

from __future__ import annotations

import io
import json
import math
import mmap
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from cmkd.errors import InputError

FORMAT = 1
MANIFEST = "manifest.json"

#: Images in a shard: what is lost at most when the writer is killed. Larger sets have larger shards, as a
#: batch reads from all of them.
SHARD_ROWS = 8192
_MOST_SHARDS = 64  # of a view
_HEADER_BYTES = 128  # of a .npy file with two dimensions

#: Keys of an identity, and what they are called in a message: by their option where there is one.
_NAMES = {
    "teacher": "teacher's weights (sha256)",
    "mean": "teacher's mean",
    "std": "teacher's std",
    "teacher_image_size": "--teacher_image_size",
    "fingerprint": "data",
    "samples": "number of images",
    "classes": "number of classes",
    "image_size": "--image_size",
    "augment": "--augment",
    "augment_hash": "augmentation's code (hash)",
    "augment_seed": "--augment_seed",
    "precision": "--precision",
    "dtype": "--dtype",
}

#: Those that a cache may lack: from before there was such an option, when nothing was resized.
_LATER = {"teacher_image_size"}


@dataclass(frozen=True)
class Manifest:
    """What a cache holds.

    Attributes:
        identity: What the logits depend on: weights and input of the teacher, data, augmentation, arithmetic.
        teacher: What is known of the teacher (`TeacherReport`), for runs that do not have its weights.
        shard_rows: Images in a shard; the last one of a view may have fewer.
        checksums: CRC-32 of every shard's file, one list for each complete view.
        format: Version of this layout.
    """

    identity: dict[str, Any]
    teacher: dict[str, Any]
    shard_rows: int
    checksums: list[list[int]] = field(default_factory=list)
    format: int = FORMAT

    @property
    def views(self) -> int:
        """Number of complete views."""
        return len(self.checksums)

    @property
    def shards(self) -> int:
        """Number of shards of a view."""
        return math.ceil(self.identity["samples"] / self.shard_rows)

    @property
    def dtype(self) -> np.dtype:
        """Of the stored logits."""
        return np.dtype(self.identity["dtype"])

    def rows(self, shard: int) -> int:
        """Return the number of images in a shard."""
        return min(self.shard_rows, self.identity["samples"] - shard * self.shard_rows)

    def file_size(self, shard: int) -> int:
        """Return the size of a shard's file in bytes."""
        return _HEADER_BYTES + self.rows(shard) * self.identity["classes"] * self.dtype.itemsize

    def as_json(self) -> str:
        """Return the content of `manifest.json`."""
        return json.dumps(asdict(self), indent=1) + "\n"


def rows_per_shard(samples: int) -> int:
    """Return how many images go into a shard."""
    return max(SHARD_ROWS, math.ceil(samples / _MOST_SHARDS))


def shard_file(path: Path, view: int, shard: int) -> Path:
    """Return the file of a shard."""
    return path / f"view{view:03d}" / f"{shard:05d}.npy"


def shard_bytes(rows: np.ndarray) -> bytes:
    """Return the content of a shard's file: the `.npy` format, which numpy reads without us."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(rows))
    return header.getvalue() + rows.tobytes()


def checksum(content: bytes | mmap.mmap) -> int:
    """Return the CRC-32 of a file: it notices every flipped bit and is read as fast as memory is."""
    return zlib.crc32(content)


def map_shard(manifest: Manifest, path: Path, view: int, shard: int, *, verify: bool) -> np.ndarray:
    """Map a shard into memory, read-only.

    Args:
        manifest: Manifest of the cache.
        path: Folder of the cache.
        view: A complete view.
        shard: A shard of it.
        verify: Whether to read it whole and compare its checksum.

    Returns:
        Logits `(rows, classes)`.

    Raises:
        InputError: The file is missing, cut off or damaged.
    """
    file = shard_file(path, view, shard)
    require_size(manifest, file, shard)
    with file.open("rb") as opened:
        content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    if verify and (found := checksum(content)) != manifest.checksums[view][shard]:
        raise InputError(
            f"{file} is damaged: its checksum is {found:08x}, the manifest has "
            f"{manifest.checksums[view][shard]:08x}. Remove that file and repeat the `cmkd cache` command, "
            "which writes it anew."
        )
    logits = np.frombuffer(content, manifest.dtype, offset=_HEADER_BYTES)
    return logits.reshape(manifest.rows(shard), -1)


def require_size(manifest: Manifest, file: Path, shard: int) -> None:
    """Raise `InputError` unless a shard's file is there in full length."""
    remedy = "Repeat the `cmkd cache` command, which writes what is missing."
    try:
        size = file.stat().st_size
    except OSError:
        raise InputError(f"{file} is missing. {remedy}") from None
    if size != manifest.file_size(shard):
        raise InputError(f"{file} has {size} bytes instead of {manifest.file_size(shard)}. {remedy}")


def read_manifest(path: Path) -> Manifest:
    """Read what a cache holds.

    Args:
        path: Folder of the cache.

    Returns:
        Its manifest; of an unfinished cache it counts no view.

    Raises:
        InputError: The folder is no cache, or one that this version cannot read.
    """
    file = path / MANIFEST
    if not path.is_dir():
        what = "is a file, and a teacher cache is a folder" if path.exists() else "does not exist"
        raise InputError(f"teacher cache {path} {what}; `cmkd cache` writes one.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is no teacher cache: it has no {MANIFEST}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file} is damaged: no valid JSON ({error}). Remove {path} and write the cache anew."
        ) from None
    if not isinstance(content, dict) or "format" not in content:
        raise InputError(f"{path} is no teacher cache: cmkd did not write its {MANIFEST}.")
    if content["format"] != FORMAT:
        raise InputError(
            f"teacher cache {path} has format {content['format']}, this version of cmkd reads format "
            f"{FORMAT}: take the version that wrote it, or write the cache anew."
        )
    names = {each.name for each in fields(Manifest)}
    identity = content.get("identity")
    missing = names - content.keys()
    missing |= _NAMES.keys() - _LATER - (identity.keys() if isinstance(identity, dict) else set())
    if missing:
        raise InputError(f"{file} is damaged: it lacks {', '.join(sorted(missing))}. Write the cache anew.")
    return Manifest(**{name: content[name] for name in names})


def differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say in what two identities differ, both values side by side.

    Args:
        there: Identity of a cache.
        now: What it is compared with; keys that it lacks are not compared.

    Returns:
        For example `["--augment: there crop_flip, now none"]`; empty if the cache fits.
    """
    found = []
    for key, name in _NAMES.items():
        if key not in now or there.get(key) == now[key]:
            continue
        if key == "augment_seed" and there["augment"] == "none":
            continue  # nothing is drawn
        values = [_shown(identity, key) for identity in (there, now)]
        found.append(f"{name}: there {values[0]}, now {values[1]}")
    return found


def _shown(identity: Mapping[str, Any], key: str) -> str:
    if key == "fingerprint":
        return f"{identity['data']} (fingerprint {identity[key][:12]})"
    return identity[key][:12] if key in ("teacher", "augment_hash") else str(identity.get(key))

"""A run's folder: who it belongs to, what was measured, where to go on."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from cmkd.errors import InputError
from cmkd.files import at_home, held, read_json, write_atomic
from cmkd.training.config import EXECUTION_OPTIONS

STATE = "state/checkpoint.pt"

_DISK_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOLCK),
}


class RunFolder:
    """The folder of one run.

    Args:
        path: The folder; it is created by `claim`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = at_home(path)

    @property
    def metrics(self) -> Path:
        """One JSON object per epoch."""
        return self.path / "metrics.jsonl"

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return (self.path / "result.json").exists()

    @contextlib.contextmanager
    def claim(self, identity: dict[str, Any], config: dict[str, Any]) -> Iterator[RunFolder]:
        """Create the folder, or take up the unfinished run in it; hold it until the context ends.

        Args:
            identity: The options that decide what comes out.
            config: All options, kept in `config.yaml`.

        Raises:
            InputError: The folder holds something else, another configuration or a run at work, or it
                cannot be written, now or later in the context.
        """
        try:
            self.refuse_other_options(identity)  # before anything is put there
            created = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            with held(self.path, "wait for it or give another --out."):
                try:
                    if self.refuse_other_options(identity) is None:
                        write_atomic(self.path / "config.yaml", yaml.safe_dump(config, sort_keys=False))
                except InputError:
                    if created:
                        (self.path / ".lock").unlink(missing_ok=True)
                        self.path.rmdir()
                    raise
                (self.path / "state").mkdir(exist_ok=True)
                yield self
        except OSError as error:
            if error.errno not in _DISK_ERRORS:
                raise
            raise InputError(
                f"cannot write the run folder {self.path}: {os.strerror(error.errno)}. Give another --out, "
                "or mend the space or the permissions and repeat the command."
            ) from error

    def read_config(self) -> dict[str, Any]:
        """Return the content of `config.yaml`, all options, and with them the `verb`: `train` or `distill`.

        Raises:
            InputError: The file does not exist or is no configuration.
        """
        file = self.path / "config.yaml"
        try:
            stored = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"{self.path} is no run folder: it has no config.yaml.") from None
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"{file} is not readable as YAML: {' '.join(str(error).split())}") from None
        if not isinstance(stored, dict) or "data" not in stored:
            raise InputError(f"{self.path} is no run folder: cmkd did not write its config.yaml.")
        return {"verb": "distill" if "teacher" in stored else "train", **stored}

    def _stored_config(self) -> dict[str, Any] | None:
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--out {self.path} is a file; give a folder.")
        if (self.path / "config.yaml").exists():
            return self.read_config()
        # A run killed before its configuration was written leaves nothing else that matters.
        foreign = [entry.name for entry in self.path.iterdir()] if self.path.exists() else []
        foreign = [name for name in foreign if name not in {".lock", ".config.yaml.tmp"}]
        if foreign:
            raise InputError(
                f"--out {self.path} exists and is not a run folder (it holds {foreign[0]!r}); choose another."
            )
        return None

    def refuse_other_options(self, identity: dict[str, Any]) -> dict[str, Any] | None:
        """Refuse the folder if it holds something else than a run with these options.

        Args:
            identity: The options that decide what comes out.

        Returns:
            The stored options; None in a new folder.

        Raises:
            InputError: It holds something else, or a run with another configuration.
        """
        identity = json.loads(json.dumps(identity))  # as YAML gives it back: lists for tuples
        stored = self._stored_config()
        if stored is None:
            return None
        stored = {key: value for key, value in stored.items() if key not in EXECUTION_OPTIONS | {"verb"}}
        differing = [
            f"{key}: there {stored.get(key)!r}, now {identity.get(key)!r}"
            for key in {**identity, **stored}
            if stored.get(key) != identity.get(key)
        ]
        if differing:
            raise InputError(
                f"{self.path} holds a run with another configuration ({'; '.join(differing)}). "
                "Give another --out, or the same options to continue that run."
            )
        return stored

    def refuse_other_teacher(self, source: str, sha256: str, logits: str | None = None) -> None:
        """Raise unless the teacher is the one that this run began with, or the run has none yet.

        Args:
            source: Where the teacher came from.
            sha256: Hash of its weights.
            logits: Where its logits come from; not compared by default.

        Raises:
            InputError: Weights or logits are others than those in `teacher.json`.
        """
        if not (self.path / "teacher.json").exists():
            return
        stored = self.read_json("teacher.json")
        before, logits_before = stored["sha256"], stored.get("logits", "live")
        if before != sha256:
            raise InputError(
                f"{self.path} was begun with a teacher whose weights hash to {before[:12]}; those of "
                f"{source} now hash to {sha256[:12]}, so it is another one: put the first one back, or give "
                "another --out."
            )
        if logits is not None and logits != logits_before:
            raise InputError(
                f"{self.path} was begun with the teacher's logits {logits_before}, now they are {logits}, "
                "which rounds them otherwise: continue it as it was begun, or give another --out."
            )

    def save_state(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint atomically; a full disk leaves the previous one intact."""
        target = self.path / STATE
        temporary = target.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            # torch reports a failed write as a RuntimeError
            raise InputError(
                f"cannot write the checkpoint {target}: {error}. The previous one is intact: free some space "
                "or mend the permissions, and repeat the command to continue."
            ) from error

    def load_state(self) -> dict[str, Any] | None:
        """Return the checkpoint, or None if there is none yet.

        Raises:
            InputError: The file cannot be read.
        """
        file = self.path / STATE
        if not file.exists():
            return None
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many types for a damaged file
            raise InputError(
                f"the checkpoint {file} is damaged ({type(error).__name__}); remove it to start anew."
            ) from error

    def append_metrics(self, row: dict[str, Any]) -> int:
        """Append a row to `metrics.jsonl` and return the file's new length in bytes."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def truncate_metrics(self, length: int) -> None:
        """Drop the rows written after the checkpoint that a run goes on from."""
        if self.metrics.exists():
            os.truncate(self.metrics, length)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the rows of `metrics.jsonl`."""
        if not self.metrics.exists():
            return []
        return [json.loads(line) for line in self.metrics.read_text(encoding="utf-8").splitlines()]

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the content of one of the folder's JSON files.

        Raises:
            InputError: The file does not exist or is not JSON.
        """
        content = read_json(self.path / name)
        if content is None:
            raise InputError(f"{self.path} is no finished run: it has no {name}.")
        return content

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write one of the folder's JSON files atomically."""
        write_atomic(self.path / name, json.dumps(content, indent=2) + "\n")

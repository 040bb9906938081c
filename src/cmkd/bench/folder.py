"""The folder of a grid: what is kept there beside the runs, and how far they are.

spec.yaml       the grid, with everything that its file left out
grid.json       its cells and trials, each with its folder and its options
tuned.json      trials, what each reached on the validation part, and the chosen ones
failures.json   jobs that failed, or that wait for one that did
jobs/ logs/     NAME.yaml for `cmkd VERB --config`, and what that said
teachers/ caches/ tuning/ cells/   ordinary run folders and teacher caches
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml

from cmkd.bench.plan import Job, Plan
from cmkd.errors import InputError
from cmkd.files import held, read_json, write_atomic
from cmkd.teachers.cache_format import MANIFEST, read_manifest
from cmkd.training.building import build_objective
from cmkd.training.cache_config import CacheConfig
from cmkd.training.config import DistillConfig
from cmkd.training.run_folder import RunFolder

State = Literal["finished", "begun", "missing"]

_OWN = {".lock", ".spec.yaml.tmp", "logs"}  # of a command that was killed before it wrote anything else


class GridFolder:
    """The folder of one grid.

    Args:
        path: The folder; it is created by `claim`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @contextlib.contextmanager
    def claim(self) -> Iterator[GridFolder]:
        """Create the folder, or take up the grid in it; hold it until the context ends.

        Raises:
            InputError: The folder holds something else, another `cmkd bench` is at work in it, or it cannot
                be written.
        """
        with contextlib.ExitStack() as stack:
            try:
                self._make()
                stack.enter_context(held(self.path, "wait for it, or give another --out."))
            except OSError as error:
                raise InputError(
                    f"cannot write the folder {self.path}: {error.strerror}; give another --out, or mend "
                    "the space or the permissions."
                ) from error
            yield self

    def _make(self) -> None:
        """Make the folder; refuse one of something else."""
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--out {self.path} is a file; give a folder.")
        found = {entry.name for entry in self.path.iterdir()} if self.path.exists() else set()
        foreign = [] if "spec.yaml" in found else sorted(found - _OWN)
        if foreign:
            raise InputError(
                f"--out {self.path} exists and is not the folder of a grid (it holds {foreign[0]!r}); choose "
                "another."
            )
        self.path.mkdir(parents=True, exist_ok=True)

    def refuse_other_grid(self, name: str) -> None:
        """Refuse to take up a grid of another name: its cells would be in no report any more.

        Raises:
            InputError: The folder has another grid.
        """
        try:
            stored = yaml.safe_load((self.path / "spec.yaml").read_text(encoding="utf-8"))
        except (FileNotFoundError, UnicodeDecodeError, yaml.YAMLError):
            return  # it is written anew
        other = stored.get("name") if isinstance(stored, dict) else None
        if other not in (None, name):
            raise InputError(
                f"{self.path} has the grid {other!r}, and this one is {name!r}: give another --out, or say "
                f"`name: {other}` in the file if it is the same."
            )

    def keep_plan(self, plan: Plan, source: str) -> None:
        """Write what the grid is made of; see `Plan.as_dict`."""
        text = yaml.safe_dump(plan.spec.as_dict(), sort_keys=False)
        write_atomic(self.path / "spec.yaml", text)
        self.write_json("grid.json", plan.as_dict(source))

    def keep_job(self, job: Job) -> list[str]:
        """Write the file of a job; return the words after `cmkd` that run it."""
        file = self.path / "jobs" / f"{job.name}.yaml"
        write_atomic(file, yaml.safe_dump(job.options, sort_keys=False))
        place = [str(self.path / job.name)] if job.kind == "cache" else []
        return [job.verb, *place, "--config", str(file)]

    def log(self, name: str) -> Path:
        """Return the file for what a job says."""
        return self.path / "logs" / f"{name}.log"

    def run(self, job: Job) -> RunFolder:
        """Return the run folder of a job that is no cache."""
        return RunFolder(self.path / job.name)

    def state(self, job: Job) -> State:
        """Return how far a job is."""
        folder = self.path / job.name
        if job.kind != "cache":
            begun = (folder / "config.yaml").exists()
            return "finished" if begun and RunFolder(folder).finished else "begun" if begun else "missing"
        if not (folder / MANIFEST).exists():
            return "missing"
        return "finished" if read_manifest(folder).views >= job.options["views"] else "begun"

    def refuse_changed(self, job: Job) -> None:
        """Refuse options that a run was not begun with, also if it is finished.

        Raises:
            InputError: The run folder belongs to other options; the message names both values.
        """
        if job.kind == "cache":
            self._refuse_other_type(job)
            return
        run = self.run(job)
        if not (run.path / "config.yaml").exists():
            return
        config = job.config()
        if isinstance(config, DistillConfig):
            config, _ = build_objective(config)
        identity = config.identity()
        if "teacher" in identity and run.finished:
            identity["teacher"] = self._teacher_before_moving(identity["teacher"], run)
        run.refuse_other_options(identity)

    def _teacher_before_moving(self, teacher: Any, run: RunFolder) -> Any:
        """Return what a finished run calls its teacher, if that is the grid's own, else the name of today.

        The folder of a grid may have been moved, or be named from elsewhere. What is unfinished cannot go on,
        as it looks for its teacher where that was.
        """
        stored = run.read_config().get("teacher")
        own = (self.path / "teachers").parts
        if isinstance(teacher, str) and isinstance(stored, str) and Path(teacher).parts[:-1] == own:
            return stored if Path(stored).parts[-2:] == Path(teacher).parts[-2:] else teacher
        return teacher

    def changed(self, job: Job) -> bool:
        """Whether `refuse_changed` refuses a job."""
        try:
            self.refuse_changed(job)
        except InputError:
            return True
        return False

    def _refuse_other_type(self, job: Job) -> None:
        """Refuse a cache in another type; what else it depends on is compared by the runs that read it."""
        folder = self.path / job.name
        if not (folder / MANIFEST).exists():
            return
        stored, wanted = read_manifest(folder).dtype.name, job.options.get("dtype", CacheConfig.dtype)
        if stored != wanted:
            raise InputError(
                f"{folder} holds logits in {stored}, the grid's file says {wanted}. Give another --out, or "
                f"`cache: {{dtype: {stored}}}` to go on with it."
            )

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the content of one of the grid's JSON files; an empty dictionary if there is none."""
        return read_json(self.path / name) or {}

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write one of the grid's JSON files atomically."""
        write_atomic(self.path / name, json.dumps(content, indent=2) + "\n")

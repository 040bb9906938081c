"""What lies in the folder of a grid: its cells, what each of them measured, and what went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cmkd.errors import InputError
from cmkd.files import read_json
from cmkd.report.records import Record, read_run

VERSION = 1

State = Literal["finished", "failed", "blocked", "unreadable", "unfinished", "missing"]


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Args:
        name: Its name in the grid.
        teacher: Name of the teacher in the grid.
        student: Name of the student network.
        method: Name of the method in the grid.
        seed: Seed.
        folder: Run folder.
        log: What the run printed.
        job: Its options, as `cmkd distill --config` takes them.
        state: How far it came.
        told: Why it is not finished, in one line; empty if there is nothing to say.
        record: What its folder says; None before it began, and if it cannot be read.
    """

    name: str
    teacher: str
    student: str
    method: str
    seed: int
    folder: Path
    log: Path
    job: Path
    state: State
    told: str
    record: Record | None


@dataclass(frozen=True)
class Grid:
    """A grid of runs.

    Args:
        path: Its folder.
        name: Its name.
        spec: The file that describes it, as it was named to `cmkd bench`.
        cells: Its runs, in the order of the spec.
        trials: What `grid.json` says of the trials that tune the methods.
        tuned: What came of them (`tuned.json`); None without it.
    """

    path: Path
    name: str
    spec: str
    cells: list[Cell]
    trials: list[dict[str, Any]]
    tuned: dict[str, Any] | None

    @property
    def methods(self) -> list[str]:
        """Names of the methods, in the order of the spec."""
        return list(dict.fromkeys(cell.method for cell in self.cells))

    @property
    def pairs(self) -> dict[tuple[str, str], list[Cell]]:
        """Teacher and student -> their cells, in the order of the spec."""
        pairs: dict[tuple[str, str], list[Cell]] = {}
        for cell in self.cells:
            pairs.setdefault((cell.teacher, cell.student), []).append(cell)
        return pairs


def is_grid(path: str | Path) -> bool:
    """Whether a folder is that of a grid."""
    return (Path(path) / "grid.json").is_file()


def read_grid(path: str | Path) -> Grid:
    """Read a grid, finished or not.

    Args:
        path: Its folder.

    Returns:
        The grid. Cells that failed, or cannot be read, say so in their state.

    Raises:
        InputError: The folder is that of no grid, or of one from another version of cmkd.
    """
    root = Path(path)
    content = read_json(root / "grid.json")
    if content is None:
        raise InputError(f"{root} is no grid: it has no grid.json.")
    if content.get("version") != VERSION:
        raise InputError(
            f"{root / 'grid.json'} has version {content.get('version')!r}; this cmkd reads version "
            f"{VERSION}: report with the one that wrote it."
        )
    failures = read_json(root / "failures.json") or {}
    try:
        cells = [_cell(root, each, failures) for each in content["cells"]]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{root / 'grid.json'} is not as `cmkd bench` writes it ({error!r}); run `cmkd bench` again."
        ) from None
    if not cells:
        raise InputError(
            f"the grid {root} has no cells; give its spec teachers, students, methods and seeds."
        )
    trials = content.get("trials") or []
    name, spec = (str(content.get(key) or root.name) for key in ("name", "spec"))
    return Grid(root, name, spec, cells, trials, read_json(root / "tuned.json"))


def _cell(root: Path, described: Mapping[str, Any], failures: Mapping[str, Any]) -> Cell:
    folder, name = root / described["folder"], described["name"]
    record, trouble = None, ""
    if (folder / "config.yaml").exists():
        try:
            record = read_run(folder)
        except InputError as error:
            trouble = str(error)
    if record is not None and record.config.get("seed") != described["seed"]:
        raise InputError(
            f"{folder} holds a run with seed {record.config.get('seed')}, but is the grid's cell for seed "
            f"{described['seed']}; put the right folder there, or remove it and run `cmkd bench` again."
        )
    state, told = _state(name, record, trouble, failures)
    return Cell(
        name=name,
        teacher=described["teacher"],
        student=described["student"],
        method=described["method"],
        seed=described["seed"],
        folder=folder,
        log=root / "logs" / f"{name}.log",
        job=root / "jobs" / f"{name}.yaml",
        state=state,
        told=told,
        record=record,
    )


def _state(name: str, record: Record | None, trouble: str, failures: Mapping[str, Any]) -> tuple[State, str]:
    """Return how far a cell came, and why not farther."""
    failure = failures.get(name)
    refused = failure is not None and failure.get("status") is None and not failure.get("blocked_by")
    if record is not None and record.result is not None and not refused:
        return "finished", ""
    if failure:
        if reason := failure.get("blocked_by"):
            return "blocked", f"{reason} failed: {failures.get(reason, {}).get('error', '')}"
        return "failed", str(failure.get("error", ""))
    if trouble:
        return "unreadable", trouble
    if record is not None:
        return "unfinished", f"{len(record.epochs)} of {record.config.get('epochs')} epochs"
    return "missing", ""

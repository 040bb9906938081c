"""Looking on while a run is at work: in TensorBoard, Weights & Biases or MLflow, by Accelerate's trackers."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from cmkd.errors import InputError
from cmkd.training.config import Tracker
from cmkd.training.meters import Meters
from cmkd.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

#: Least seconds between two points within an epoch: reading the meters waits for the device.
INTERVAL = 30.0

#: What the trackers of the network remember the run by, for the day it is continued.
STORED = "tracker.json"

_MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


def open_live(asked: Tracker, folder: RunFolder) -> Live | None:
    """Return what shows a run, before anything of it is written.

    Args:
        asked: Where to show it; `auto` is TensorBoard if it is installed.
        folder: The run's folder.

    Returns:
        The live view; None if there is to be none.

    Raises:
        InputError: The library is not installed.
    """
    if asked == "none":
        return None
    name = "tensorboard" if asked == "auto" else asked
    try:
        importlib.import_module(_MODULES[name])
    except Exception as error:
        if asked == "auto":
            if not isinstance(error, ImportError):
                logger.warning("TensorBoard is installed but fails (%s); the run goes on without it", error)
            return None
        raise InputError(f'--tracker {name}: {error}; run: pip install "cmkd[{name}]"') from error
    return Live(name, folder)


class Live:
    """What a run shows of itself: every epoch's scores, and the running ones every half minute.

    The horizontal axis is the number of batches. What the tracker does never ends a run: if it fails while
    the run is at work, that is said once, and the run goes on without it.

    Args:
        name: `tensorboard`, `wandb` or `mlflow`.
        folder: The run's folder.
    """

    def __init__(self, name: str, folder: RunFolder) -> None:
        self.name = name
        self.folder = folder
        self._tracker: GeneralTracker | None = None
        self._steps_per_epoch = 0
        self._shown = 0.0

    def start(self, options: Mapping[str, Any]) -> None:
        """Begin a log, or go on with that of this folder.

        Args:
            options: The run's options.

        Raises:
            InputError: The tracker cannot be reached, or nobody is logged in to it.
        """
        if self.name == "tensorboard":
            return  # it is told first where the run goes on
        known = self._known()
        try:
            if self.name == "wandb":
                known = known or uuid.uuid4().hex
                project = os.environ.get("WANDB_PROJECT", "cmkd")
                place = {"id": known, "resume": "allow", "name": self._title, "dir": str(self.folder.path)}
                self._tracker = _started(self.name, project, place)
                self._tracker.store_init_configuration(_flat(options))
            else:
                self._tracker = _started(self.name, "cmkd", {"run_id": known, "run_name": self._title})
                if known is None:  # what was logged once cannot be changed there
                    self._tracker.store_init_configuration(_flat(options))
                    known = self._tracker.tracker.info.run_id
        except Exception as error:  # of whatever type that library has
            line = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise InputError(
                f"--tracker {self.name} cannot begin: {line.rstrip('.')}. Log in or mend its settings, or "
                "take --tracker none."
            ) from error
        self.folder.write_json(STORED, {"tracker": self.name, "id": known})

    @contextlib.contextmanager
    def at_work(self, steps_per_epoch: int, *, done: int) -> Iterator[None]:
        """Take what is shown while the context lasts; `done` steps were done before."""
        self._steps_per_epoch, self._shown = steps_per_epoch, time.monotonic()
        if self.name == "tensorboard":
            with self._never_ending_the_run():
                # What a killed run showed after its last checkpoint is shown once more.
                self._tracker = _started(
                    self.name, self.name, {"purge_step": done + 1}, logging_dir=str(self.folder.path)
                )
        try:
            yield
        finally:
            with self._never_ending_the_run():
                if self._tracker is not None:
                    self._tracker.finish()
            self._tracker = None

    def step(self, epoch: int, batch: int, meters: Meters) -> None:
        """Show how far the epoch has come, unless that was shown a moment ago."""
        if self._tracker is None or time.monotonic() - self._shown < INTERVAL:
            return
        means = meters.means()
        running = {f"running/{name}": means[name] for name in ("loss", "accuracy")}
        self._log(running, epoch * self._steps_per_epoch + batch)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Show a finished epoch."""
        if self._tracker is None:
            return
        named = {key: value for key, value in row.items() if key != "histograms"}
        numbers = {key: value for key, value in _flat(named, "/").items() if isinstance(value, (int, float))}
        self._log(numbers, row["epoch"] * self._steps_per_epoch)

    def _log(self, values: dict[str, Any], step: int) -> None:
        with self._never_ending_the_run():
            assert self._tracker is not None, "who calls has looked"
            self._tracker.log(values, step=step)
        self._shown = time.monotonic()

    @contextlib.contextmanager
    def _never_ending_the_run(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a full disk, a lost network, whatever that library raises
            logger.warning("the live view (%s) has failed, the run goes on without it: %s", self.name, error)
            self._tracker = None

    @property
    def _title(self) -> str:
        return self.folder.path.absolute().name

    def _known(self) -> str | None:
        """Return what this folder's run is known by to the tracker, None if it is not."""
        try:
            stored = json.loads((self.folder.path / STORED).read_text(encoding="utf-8"))
            return str(stored["id"]) if stored["tracker"] == self.name else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _started(
    name: str, project: str, options: Mapping[str, Any], logging_dir: str | None = None
) -> GeneralTracker:
    kind = LOGGER_TYPE_TO_CLASS[name]
    tracker = kind(project, **({"logging_dir": logging_dir} if logging_dir else {}), **options)
    if hasattr(tracker, "start"):  # of earlier versions of Accelerate the class began by itself
        tracker.start()
    return tracker


def _flat(tree: Mapping[str, Any], between: str = ".") -> dict[str, Any]:
    """Return options or scores without nesting: trackers take plain values."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}{between}{name}": each for name, each in _flat(value, between).items()}
        else:
            flat[key] = value if isinstance(value, (bool, int, float, str)) else json.dumps(value)
    return flat

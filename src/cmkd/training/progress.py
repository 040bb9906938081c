"""What is seen while a run is at work: a bar on a terminal, a log line per epoch elsewhere; a live view."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from cmkd.training.live import Live
from cmkd.training.meters import Meters

logger = logging.getLogger(__name__)

REDRAW_SECONDS = 0.25  # reading the meters waits for the device: not at every step


class Progress:
    """Display of a run.

    Args:
        title: What stands before the bar.
        enabled: Whether there is a display at all.
        console: Console to draw on; standard error by default.
        live: What shows the run elsewhere, whether or not there is a display; none by default.
    """

    def __init__(
        self,
        title: str = "",
        *,
        enabled: bool = True,
        console: Console | None = None,
        live: Live | None = None,
    ) -> None:
        self.title = title
        self.enabled = enabled
        self.console = console or Console(stderr=True)
        self.live = live
        self._bar: Bar | None = None
        self._drawn = 0.0

    @contextmanager
    def run(self, epochs: int, steps_per_epoch: int, *, done: int = 0) -> Iterator[None]:
        """Show the display while the context lasts; `done` steps were done before."""
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch
        elsewhere = nullcontext() if self.live is None else self.live.at_work(steps_per_epoch, done=done)
        with elsewhere, self._drawing(done):
            yield

    @contextmanager
    def _drawing(self, done: int) -> Iterator[None]:
        if not (self.enabled and self.console.is_terminal):
            yield
            return
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        with self._bar:
            self._task = self._bar.add_task(
                self.title, total=self.epochs * self.steps_per_epoch, completed=done, figures=""
            )
            try:
                yield
            finally:
                bar, self._bar = self._bar, None
                bar.refresh()

    def step(self, epoch: int, batch: int, meters: Meters) -> None:
        """Show a finished step."""
        if self.live is not None:
            self.live.step(epoch, batch, meters)
        if self._bar is None or time.monotonic() - self._drawn < REDRAW_SECONDS:
            return
        self._drawn = time.monotonic()
        means = meters.means()
        self._bar.update(
            self._task,
            completed=epoch * self.steps_per_epoch + batch,
            description=f"{self.title} epoch {epoch + 1}/{self.epochs}",
            figures=f"loss {means['loss']:.3f}  accuracy {means['accuracy']:.1%}",
        )

    def epoch(self, row: dict[str, Any]) -> None:
        """Report a finished epoch."""
        if self.live is not None:
            self.live.epoch(row)
        if not self.enabled:
            return
        text = f"{self.title} epoch {row['epoch']}/{self.epochs}: loss {row['train']['loss']:.4f}"
        text += f", accuracy {row['train']['accuracy']:.2%}"
        if "validation" in row:
            text += f", validation {row['validation']['accuracy']:.2%}"
            if "rank_correlation" in row["validation"]:
                text += f", rank correlation {row['validation']['rank_correlation']:.3f}"
        if "test" in row:
            text += f", test {row['test']['accuracy']:.2%}"
        text += f", {row['seconds']:.0f} s"
        if self._bar is None:
            logger.info(text)
        else:  # above the bar: what goes past its console would be drawn into it
            self._bar.console.print(text, highlight=False)

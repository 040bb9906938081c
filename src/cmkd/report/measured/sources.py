"""Which run of a method the figures look into, and what they share when they draw it."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmkd.report.palette import PLOTLY_MARKERS, css_color
from cmkd.report.records import Record, Records, read_evaluation

if TYPE_CHECKING:
    from torch import Tensor

    from cmkd.training.details import Details

#: Methods that get pictures or matrices of their own: a page of dozens would help nobody.
FEW = 4


@dataclass(frozen=True)
class Source:
    """A run that was measured in detail.

    Args:
        label: Its method.
        index: Place of the method, which gives it its colour and marker.
        run: The run.
        details: What was kept of it.
    """

    label: str
    index: int
    run: Record
    details: Details

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return [str(name) for name in self.details.meta["classes"]]

    @property
    def loss(self) -> dict[str, Any]:
        """The distillation loss, with its name; empty for a network trained on labels alone."""
        loss: dict[str, Any] = self.run.config.get("loss") or {}
        return loss

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """What `cmkd evaluate` found on the whole test set; None if it was not asked."""
        return read_evaluation(self.run)

    @property
    def teacher_name(self) -> str:
        """What its teacher is called."""
        return f"Teacher ({self.details.meta['teacher']['network']})"


@dataclass(frozen=True)
class Sources:
    """What the figures are drawn from.

    Args:
        records: Method -> its runs, all of them.
        found: Of each method a run that was measured in detail, in the methods' order.
        absent: Why a method has none: by its label.
    """

    records: Records
    found: list[Source]
    absent: dict[str, str]

    @property
    def taught(self) -> list[Source]:
        """Those whose teacher was at hand."""
        return [source for source in self.found if "teacher" in source.details.meta]

    def nothing(self, needed: str = "") -> str:
        """Say why there is nothing to draw.

        Args:
            needed: What the figure needs that no run has; by default details at all.
        """
        if self.found and needed:
            reasons = {each.details.meta["missing"].get("teacher", "") for each in self.found} - {""}
            why = f" ({'; '.join(sorted(reasons))})" if needed.startswith("No teacher") and reasons else ""
            return f"{needed}{why}."
        reasons = set(self.absent.values())
        return f"Not measured: {'; '.join(sorted(reasons)) or 'no run has details'}."

    def left_out(self) -> str:
        """Name the methods without details, as a sentence; nothing if all have some."""
        if not self.absent or not self.found:
            return ""
        said = "; ".join(f"{label}: {why}" for label, why in self.absent.items())
        return f" Not measured: {said}."


def as_asked(details: Details, images: int, layout: str | None) -> bool:
    """Whether details are of as many images and laid out as asked; with 0 and None anything will do."""
    return (images == 0 or details.meta["asked"] == images) and layout in (None, details.layout)


def find_sources(
    records: Records, problems: Mapping[Path, str], *, images: int = 0, layout: str | None = None
) -> Sources:
    """Look for details among the runs.

    Args:
        records: Method -> its runs.
        problems: Run folder -> why it could not be measured.
        images: Of several runs of a method take the first one with details of so many images, if there is
            one; 0 for any number.
        layout: Likewise how their features are laid out; None for any way.
    """
    from cmkd.training.details import read_details

    found, absent = [], {}
    for index, (label, runs) in enumerate(records.items()):
        kept = (
            Source(label, index, run, details)
            for run in runs
            if run.result is not None and (details := read_details(run.path)) is not None
        )
        if (first := next(kept, None)) is not None:
            # The others are read only if the first one is not what was asked for.
            wanted = (each for each in chain([first], kept) if as_asked(each.details, images, layout))
            found.append(next(wanted, first))
        else:
            reasons = [problems[run.path] for run in runs if run.path in problems]
            unfinished = all(run.result is None for run in runs)
            absent[label] = (
                "it has not finished"
                if unfinished
                else reasons[0]
                if reasons
                else "details were not asked for"
            )
    return Sources(records, found, absent)


def one_teacher(sources: Sequence[Source]) -> list[Source]:
    """Return those that share the first one's teacher and images, so that they can be compared."""
    kept: list[Source] = []
    for source in sources:
        first = kept[0] if kept else source
        same = source.details.meta["teacher"]["sha256"] == first.details.meta["teacher"]["sha256"]
        if same and source.details.indices.equal(first.details.indices):
            kept.append(source)
    return kept


def right(logits: Tensor, targets: Tensor) -> Tensor:
    """Return whether the highest logit is that of the label, `(N,)` bool."""
    return logits.argmax(1) == targets


def look(index: int, *, size: float = 8, width: float = 2.25) -> dict[str, Any]:
    """Return line and marker of the method at a place, as plotly takes them."""
    symbol = PLOTLY_MARKERS[index % len(PLOTLY_MARKERS)]
    color = css_color(index)
    return {
        "line": {"color": color, "width": width},
        "marker": {"symbol": symbol, "size": size, "color": color},
    }


def teacher_look(*, size: float = 8) -> dict[str, Any]:
    """Return line and marker of a teacher."""
    return {
        "line": {"color": "var(--ink-soft)", "width": 1.75, "dash": "dot"},
        "marker": {"symbol": "star", "size": size, "color": "var(--ink-soft)"},
    }


def plain(text: str) -> str:
    """Return text as plotly shows it unchanged: it reads names as markup."""
    return html.escape(text)

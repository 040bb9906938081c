"""Running means and histograms of an epoch, kept on the device and read when somebody looks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

HISTOGRAM_BINS = 20
#: Parts of a loss that lie in [0, 1] and whose distribution says more than their mean.
HISTOGRAMS = ("weight", "difficulty")


class Meters:
    """Sums over the samples of an epoch.

    Args:
        device: Where the sums live.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.reset()

    def reset(self) -> None:
        """Start an epoch."""
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}
        self.samples = 0

    def add(self, loss: Tensor, logits: Tensor, targets: Tensor, parts: dict[str, Tensor]) -> None:
        """Add a batch.

        Args:
            loss: Scalar loss.
            logits: Student logits `(B, C)`.
            targets: Class indices `(B,)`.
            parts: Parts of the loss, scalars or one value per sample.
        """
        size = targets.shape[0]
        self._add("loss", loss * size)
        self._add("accuracy", (logits.argmax(1) == targets).sum())
        for name, value in parts.items():
            self._add(name, value.mean() * size)
            if name in HISTOGRAMS and value.ndim:
                bins = (value * HISTOGRAM_BINS).long().clamp(0, HISTOGRAM_BINS - 1).flatten()
                counts = torch.bincount(bins, minlength=HISTOGRAM_BINS)
                self._counts[name] = self._counts[name] + counts if name in self._counts else counts
        self.samples += size

    def _add(self, name: str, value: Tensor) -> None:
        value = value.double() if self.device.type != "mps" else value.float()
        self._sums[name] = self._sums[name] + value if name in self._sums else value

    def means(self) -> dict[str, float]:
        """Return the mean of everything over the samples so far."""
        return {name: value.item() / max(self.samples, 1) for name, value in self._sums.items()}

    def histograms(self) -> dict[str, list[int]]:
        """Return counts over `HISTOGRAM_BINS` equal bins of [0, 1]."""
        return {name: value.tolist() for name, value in self._counts.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` restores."""
        return {"sums": self._sums, "counts": self._counts, "samples": self.samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the sums, mid-epoch."""
        self._sums = {name: value.to(self.device) for name, value in state["sums"].items()}
        self._counts = {name: value.to(self.device) for name, value in state["counts"].items()}
        self.samples = state["samples"]

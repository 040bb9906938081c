"""Running means and histograms of an epoch, kept on the device and read when somebody looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cmkd.training.processes import Processes

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
        self._names: list[str] = []
        self._sums = torch.zeros(0)
        self._counts: dict[str, Tensor] = {}
        self.samples = 0

    def add(self, loss: Tensor, logits: Tensor, targets: Tensor, parts: dict[str, Tensor]) -> None:
        """Add a batch, without waiting for the device.

        Args:
            loss: Scalar loss.
            logits: Student logits `(B, C)`.
            targets: Class indices `(B,)`.
            parts: Parts of the loss, scalars or one value per sample; of the same names in every batch.
        """
        correct = (logits.argmax(1) == targets).float()
        values = {"loss": loss, "accuracy": correct, **parts}
        # All in one tensor: on a GPU a step is bound by the number of its kernels.
        means = torch.stack(
            [value.float().mean() if value.ndim else value.float() for value in values.values()]
        )
        if not self._names:
            self._names = list(values)
            self._sums = torch.zeros_like(means, dtype=self._dtype)
        size = targets.shape[0]
        self._sums = self._sums.add(means, alpha=size)
        self.samples += size
        for name in HISTOGRAMS:
            if name in parts and parts[name].ndim:
                bins = (parts[name] * HISTOGRAM_BINS).long().clamp(0, HISTOGRAM_BINS - 1).flatten()
                # not torch.bincount, which asks the device for the largest
                counts = (bins[:, None] == torch.arange(HISTOGRAM_BINS, device=bins.device)).sum(0)
                self._counts[name] = self._counts[name] + counts if name in self._counts else counts

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float32 if self.device.type == "mps" else torch.float64

    def means(self) -> dict[str, float]:
        """Return the mean of everything over the samples so far."""
        sums = zip(self._names, self._sums.tolist(), strict=True)
        return {name: value / max(self.samples, 1) for name, value in sums}

    def histograms(self) -> dict[str, list[int]]:
        """Return counts over `HISTOGRAM_BINS` equal bins of [0, 1]."""
        return {name: value.tolist() for name, value in self._counts.items()}

    def over(self, processes: Processes) -> Meters:
        """Return the sums over the samples of all processes."""
        if processes.count == 1:
            return self
        states = processes.share(self.state_dict())
        total = Meters(torch.device("cpu"))
        total.load_state_dict(
            {
                "sums": _added([state["sums"] for state in states]),
                "counts": _added([state["counts"] for state in states]),
                "samples": sum(state["samples"] for state in states),
            }
        )
        return total

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` restores, on the CPU."""
        sums = dict(zip(self._names, self._sums.cpu(), strict=True))
        counts = {name: value.cpu() for name, value in self._counts.items()}
        return {"sums": sums, "counts": counts, "samples": self.samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the sums, mid-epoch."""
        self._names = list(state["sums"])
        sums = [value.to(self.device, self._dtype) for value in state["sums"].values()]
        self._sums = torch.stack(sums) if sums else torch.zeros(0)
        self._counts = {name: value.to(self.device) for name, value in state["counts"].items()}
        self.samples = state["samples"]


def _added(tensors: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    for each in tensors:
        total |= {name: value + total[name] if name in total else value for name, value in each.items()}
    return total

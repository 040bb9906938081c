"""What the time of a training step goes into, by hooks that any loop of PyTorch has."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import optimizer as optimizers


class Clock:
    """Time by phase. Of phases within one another the inner one is charged.

    Before the first phase of a step comes `data`, between and after the phases `other`. The backward pass,
    the optimiser and what was given to `watch` are phases.

    Args:
        device: Whose work is waited for at every change of phase, which makes the step slower.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._watched: list[tuple[str, nn.Module]] = []
        self._seconds: dict[str, float] = {}
        self._phases: list[str] = []
        self._running = False
        self._begun = False
        self._last = 0.0

    def watch(self, phase: str, module: nn.Module) -> None:
        """Make the calls of a module a phase."""
        self._watched.append((phase, module))

    def call(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose calls are a phase."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._enter(phase)
            result = function(*args, **kwargs)
            self._leave()
            return result

        return timed

    def start(self) -> None:
        """Set the hooks; until then nothing is measured and nothing costs time."""
        if self._running:
            return
        self._running = True
        for phase, module in self._watched:
            module.register_forward_pre_hook(lambda *_, phase=phase: self._enter(phase))
            module.register_forward_hook(lambda *_: self._leave())
        torch.Tensor.backward = self.call("backward", torch.Tensor.backward)  # type: ignore[method-assign]
        optimizers.register_optimizer_step_pre_hook(lambda *_: self._enter("optimiser"))
        optimizers.register_optimizer_step_post_hook(lambda *_: self._leave())

    def reset(self) -> None:
        """Begin to count, at the beginning of a step."""
        self._seconds, self._phases, self._begun = {}, [], False
        self._last = self._now()

    def next_step(self) -> None:
        """Tell that a step has ended."""
        if self._running:
            self._charge()
            self._begun = False

    def read(self) -> dict[str, float]:
        """Return the seconds by phase; nothing before `start`."""
        if self._running:
            self._charge()
        return self._seconds

    def _enter(self, phase: str) -> None:
        if self._running:
            self._charge()
            self._phases.append(phase)
            self._begun = True

    def _leave(self) -> None:
        if self._running:
            self._charge()
            self._phases.pop()

    def _charge(self) -> None:
        now = self._now()
        phase = self._phases[-1] if self._phases else "other" if self._begun else "data"
        self._seconds[phase] = self._seconds.get(phase, 0.0) + now - self._last
        self._last = now

    def _now(self) -> float:
        if self._running and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

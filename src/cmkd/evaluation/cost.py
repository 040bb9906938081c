"""What a network costs: parameters, and latency on the CPU at hand."""

from __future__ import annotations

import copy
import statistics
import time

import torch
from torch import nn


@torch.inference_mode()
def cpu_latency(
    model: nn.Module, image_size: int, *, runs: int = 200, warmup: int = 10, seconds: float = 2.0
) -> dict[str, float]:
    """Time the forward pass of a single image on the CPU, in float32.

    Args:
        model: Network that takes `(1, 3, image_size, image_size)`; it is copied, not moved.
        image_size: Side of the image in pixels.
        runs: Timed passes, at most.
        warmup: Passes before those.
        seconds: Time after which no further pass is begun; two are timed whatever they take.

    Returns:
        `latency_ms`, the median, with `latency_p10_ms` and `latency_p90_ms`, in milliseconds.
    """
    network = copy.deepcopy(model).to("cpu", torch.float32).eval()
    image = torch.zeros(1, 3, image_size, image_size)
    for _ in range(warmup):
        network(image)
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < 2 or (len(times) < runs and time.perf_counter() - begun < seconds):
        start = time.perf_counter()
        network(image)
        times.append(1e3 * (time.perf_counter() - start))
    tenths = statistics.quantiles(times, n=10)
    return {
        "latency_ms": statistics.median(times),
        "latency_p10_ms": tenths[0],
        "latency_p90_ms": tenths[-1],
    }

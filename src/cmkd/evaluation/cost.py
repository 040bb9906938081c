"""What a network costs: size, multiplications, latency and throughput on the machine at hand."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cmkd import models

#: Images of a batch for the throughput.
BATCH = 128


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
    return _latency(passes(network, torch.zeros(1, 3, image_size, image_size), runs, warmup, seconds))


@torch.inference_mode()
def speed(
    model: nn.Module, image_size: int, device: torch.device, *, batch: int = BATCH, seconds: float = 2.0
) -> dict[str, float]:
    """Time single images and batches on a device, in float32.

    Args:
        model: Network that takes `(N, 3, image_size, image_size)`; it is copied, not moved.
        image_size: Side of the images in pixels.
        device: Where to run.
        batch: Images in a batch.
        seconds: Time for either, after which no further pass is begun.

    Returns:
        `latency_ms` with `latency_p10_ms` and `latency_p90_ms`, as `cpu_latency`; `images_per_second`, the
        median over the batches, with `images_per_second_p10` and `images_per_second_p90`; `batch`.
    """
    network = copy.deepcopy(model).to(device, torch.float32).eval()
    single = passes(network, torch.zeros(1, 3, image_size, image_size, device=device), 200, 10, seconds)
    images = torch.zeros(batch, 3, image_size, image_size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    rates = [batch / taken for taken in passes(network, images, 30, 1, seconds)]
    middle, low, high = median_and_tenths(rates)
    return {
        **_latency(single),
        "images_per_second": middle,
        "images_per_second_p10": low,
        "images_per_second_p90": high,
        "batch": batch,
    }


def cost(
    model: nn.Module, image_size: int, device: torch.device, *, weights: Path | None = None
) -> dict[str, Any]:
    """Measure what a network takes.

    Args:
        model: Network that takes `(N, 3, image_size, image_size)`.
        image_size: Side of the images in pixels.
        device: An accelerator to be timed beside the CPU, or the CPU.
        weights: File with its weights, if there is one.

    Returns:
        `parameters`; `macs`, multiply-accumulate operations for one image; `weight_bytes`, the size of that
        file, else of all tensors of the network; `cpu` and, on another device, that device's type: see
        `speed`.
    """
    state = sum(each.numel() * each.element_size() for each in model.state_dict().values())
    found: dict[str, Any] = {
        "image_size": image_size,
        "parameters": models.count_parameters(model),
        "macs": models.count_macs(model, image_size),
        "weight_bytes": weights.stat().st_size if weights is not None and weights.is_file() else state,
    }
    for each in dict.fromkeys((torch.device("cpu"), torch.device(device))):
        found[each.type] = speed(model, image_size, each)
    return found


def summed(costs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the cost of networks that are run one after the other, as the members of an ensemble."""
    if len(costs) == 1:
        return costs[0]
    total: dict[str, Any] = {"members": len(costs)}
    for key, value in costs[0].items():
        if isinstance(value, dict):
            parts = [each[key] for each in costs]
            total[key] = {
                # Times add up; of rates it is their inverse, the time of an image.
                name: 1 / sum(1 / part[name] for part in parts)
                if name.startswith("images")
                else sum(part[name] for part in parts)
                for name in value
                if name != "batch"
            } | {"batch": value["batch"]}
        elif key != "image_size":
            total[key] = sum(each[key] for each in costs)
    return total


def _latency(times: list[float]) -> dict[str, float]:
    middle, low, high = median_and_tenths(times)
    return {"latency_ms": 1e3 * middle, "latency_p10_ms": 1e3 * low, "latency_p90_ms": 1e3 * high}


def median_and_tenths(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median, and the 10 and the 90 % percentile of what was measured, at least two values.

    Example:
        >>> median_and_tenths([1.0, 2.0, 4.0])
        (2.0, 1.2, 3.6)
    """
    # Of the values themselves: by default those of a population, which for few values lie beyond them.
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return statistics.median(values), tenths[0], tenths[-1]


def passes(
    network: Callable[[Tensor], Any], images: Tensor, runs: int, warmup: int, seconds: float
) -> list[float]:
    """Time a network.

    Args:
        network: What is called.
        images: What it is called with; where they are it is waited for the answer.
        runs: Timed passes, at most.
        warmup: Passes before those.
        seconds: Time after which no further pass is begun; two are timed whatever they take.

    Returns:
        The seconds of each pass.
    """

    def wait() -> None:
        if images.device.type != "cpu":
            torch.accelerator.synchronize(images.device)

    for _ in range(warmup):
        network(images)
    wait()
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < 2 or (len(times) < runs and time.perf_counter() - begun < seconds):
        start = time.perf_counter()
        network(images)
        wait()
        times.append(time.perf_counter() - start)
    return times

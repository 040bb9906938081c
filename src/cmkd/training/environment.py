"""On what a run ran: versions, hardware, revision, and the arithmetic that the hardware is good at."""

from __future__ import annotations

import logging
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import cmkd
from cmkd.errors import InputError
from cmkd.kernels import native
from cmkd.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

PACKAGES = ("torch", "torchvision", "timm", "accelerate", "numpy")


def native_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself.

    A CPU without the instructions emulates them, at half the speed of float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, check, lambda: False)() for check in checks)
    return False


def arithmetic(precision: str, device: torch.device) -> str:
    """Return the arithmetic of a run.

    Args:
        precision: What is asked for: `auto`, `fp32`, `bf16` or `fp16`.
        device: Device of the run.

    Returns:
        `precision`, with `auto` decided.

    Raises:
        InputError: The device does not have it.
    """
    if precision == "fp16" and device.type == "cpu":
        raise InputError("--precision fp16 needs an accelerator; on a CPU take fp32, bf16 or auto.")
    if precision == "auto":
        return "bf16" if native_bf16(device) else "fp32"
    return precision


def describe(device: torch.device, precision: str, processes: int) -> dict[str, Any]:
    """Return what `environment.json` keeps.

    Args:
        device: Device of the run.
        precision: Arithmetic that was chosen.
        processes: Number of processes that train.

    Returns:
        Versions, device, processes, threads of each, precision, what computes losses on CPU, and the revision
        of cmkd's own checkout, if it runs from one.
    """
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {
        "cmkd": cmkd.__version__,
        "revision": _revision(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "device": device.type,
        "hardware": hardware,
        "processes": processes,
        "threads": torch.get_num_threads(),
        "precision": precision,
        "cpu_losses": native.describe(),
    }


def keep(folder: RunFolder, now: dict[str, Any]) -> None:
    """Write `environment.json`; refuse to go on in another arithmetic than the run began with.

    Args:
        folder: The run's folder.
        now: What `describe` says.

    Raises:
        InputError: The run began on another kind of device or in another precision.
    """
    if (folder.path / "environment.json").exists():
        before = folder.read_json("environment.json")
        for key in ("device", "precision"):
            if before[key] != now[key]:
                raise InputError(
                    f"{folder.path} was begun with {key} {before[key]}, now it is {now[key]}; continue it "
                    "as it was begun, or give another --out."
                )
        changed = [key for key in now if key != "revision" and before.get(key) != now[key]]
        if changed:
            named = ", ".join(f"{key} ({before.get(key)}, now {now[key]})" for key in changed)
            logger.warning("going on though these differ: %s; the bits may not be an unbroken run's", named)
    folder.write_json("environment.json", now)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _revision() -> str | None:
    root = Path(cmkd.__file__).parents[2]
    if not (root / ".git").exists():  # an installed package: its version says it
        return None
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()

"""On what a benchmark ran: processor, threads, versions, revision."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from cmkd.kernels import native

ROOT = Path(__file__).parents[1]
PACKAGES = ("torch", "triton", "torchsort", "torchpsort", "numpy")


def describe_machine(device: str = "cpu", packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Return what the reader of a number needs to know about where it comes from."""
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "cpu": _cpu_name(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version for name in packages if (version := _version(name))},
        "cpu_kernels": native.describe(),
        "compiler": _first_line("cc", "--version"),
        "revision": _first_line("git", "describe", "--always", "--dirty", "--abbrev=12"),
    }


def in_words(machine: dict[str, Any]) -> str:
    """Return one sentence for under a table."""
    where = machine["cpu"] if machine["device"] == "cpu" else machine["device"]
    kernels = f"CPU kernels: {machine['cpu_kernels']}"
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return (
        f"{where}, {machine['threads']} CPU threads, {machine['vector_instructions']}; {kernels}; {packages};"
        f" revision {machine['revision'] or 'unknown'}."
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _first_line(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.stdout.splitlines()[0] if done.returncode == 0 and done.stdout else None

"""Peak memory of a process, and processes to measure it in, each for one thing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

# Returns every block to the system as soon as it is freed: the peak is then what was in use at once.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
_CLEAR = Path("/proc/self/clear_refs")


def answer_apart(words: list[str], what: str) -> Any:
    """Run a script in a fresh process and return what it prints last, as JSON.

    Args:
        words: The script and its options.
        what: What it measures, for the message.

    Raises:
        RuntimeError: The process failed; the message ends with what it said.
    """
    command = [sys.executable, *words]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **_ALLOCATOR})
    if done.returncode:
        raise RuntimeError(f"measuring {what} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def tells_peak() -> bool:
    """Whether the system tells the peak of this process, as Linux does."""
    return _CLEAR.exists()


def begin() -> int:
    """Set the peak to what is in use now, and return that in bytes."""
    _CLEAR.write_text("5")
    return _status("VmRSS")


def peak() -> int:
    """Return the most that was in use since `begin`, in bytes."""
    return _status("VmHWM")


def _status(key: str) -> int:
    """Return a line of `/proc/self/status`, in bytes."""
    found = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), flags=re.MULTILINE)
    return 1024 * int(found[1]) if found else 0

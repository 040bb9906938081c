"""`python -m cmkd.bench.child PARENT WORDS...`: `cmkd WORDS...` in a process that ends with its parent.

What a killed `cmkd bench`, or a killed worker of a cluster, left behind would go on holding the folder of its
run, and nobody could take it up.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def begin(
    words: Sequence[str], log: Path, environment: Mapping[str, str], folder: str | None = None
) -> subprocess.Popen[bytes]:
    """Start a process that ends when the calling thread does, wherever the system is Linux.

    Args:
        words: What follows `cmkd` on the command line.
        log: File that gets what the process says, after what it said before.
        environment: Variables of the process.
        folder: Where it works; the current folder by default.

    Returns:
        The process. It has a session of its own: Ctrl-C reaches it through its parent alone, once.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"\n== {time.strftime('%Y-%m-%d %H:%M:%S')} cmkd {' '.join(words)}\n")
        file.flush()
        return subprocess.Popen(
            [sys.executable, "-m", "cmkd.bench.child", str(os.getpid()), *words],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=folder,
            start_new_session=True,
        )


def _end_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that was said
        sys.exit(1)


if __name__ == "__main__":
    _end_with(int(sys.argv[1]))
    sys.argv = ["cmkd", *sys.argv[2:]]
    runpy.run_module("cmkd", run_name="__main__")

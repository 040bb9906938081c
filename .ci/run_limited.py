"""Run a command; print how long it took, and fail if it took more memory than it may.

python .ci/run_limited.py --mebibytes 2048 cmkd demo
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time


def main() -> int:
    """Run and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mebibytes", type=int, required=True)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    start = time.monotonic()
    status = subprocess.run(options.command).returncode
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{' '.join(options.command)}: {time.monotonic() - start:.0f} s, peak {peak:.0f} MiB")
    return status or int(peak > options.mebibytes)


if __name__ == "__main__":
    sys.exit(main())

"""Time `from cmkd import CMKDLoss` against `import torch`, each in fresh processes, in turns.

    python benchmarks/import_time.py --limit 1.10

Prints both medians and their ratio; with `--limit`, exits with status 1 if the ratio of the fastest
runs is above it (the fastest, since on a shared machine only slowness is noise).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

STATEMENTS = {"torch": "import torch", "cmkd": "from cmkd import CMKDLoss"}


def seconds(statement: str) -> float:
    """Return the wall time of a Python process that runs one statement."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def main() -> int:
    """Measure and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--limit", type=float)
    options = parser.parse_args()

    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for run in range(options.runs + 1):
        for name, statement in STATEMENTS.items():
            elapsed = seconds(statement)
            if run:  # the first round fills the disk cache
                times[name].append(elapsed)
    for name, each in times.items():
        print(f"{STATEMENTS[name]:26} median {statistics.median(each):.3f} s, fastest {min(each):.3f} s")
    ratio = min(times["cmkd"]) / min(times["torch"])
    print(f"ratio of the fastest: {ratio:.3f}")
    return int(options.limit is not None and ratio > options.limit)


if __name__ == "__main__":
    sys.exit(main())

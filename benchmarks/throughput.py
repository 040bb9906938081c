"""Time `cmkd distill` against its limits and against other loops on the same work: one command, one run.

    python benchmarks/throughput.py --threads 2       # all pairs, about 20 minutes
    python benchmarks/throughput.py --quick           # a smoke test of a minute, into runs/
    python benchmarks/throughput.py --device cuda --name cuda-h100

Every contestant is a process of its own. In every round each has one turn of some seconds, in an order that
rotates from round to round, while the others stand still; ratios are taken within the rounds. A turn begins
with steps that are not timed, in which the batches are used up that worker processes had time to prepare.
After the rounds each says what its time goes into, which is measured apart because it costs time itself.
Writes `<name>.json` (every single turn), `<name>.png`, `<name>.svg`, and `README.md` with the tables of all
JSON files in the folder; those of `cpu.json` go into `docs/training.md` too.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import throughput_tables
import torch
from ranking_machine import describe_machine
from throughput_contestants import CONTESTANTS
from throughput_pairs import PAIRS, load, prepare, write_cache
from throughput_picture import draw
from throughput_turns import Contestant
from written import as_json

from cmkd.training.environment import native_bf16

ROOT = Path(__file__).parents[1]
SCRIPT = Path(__file__).with_name("throughput_contestants.py")
PACKAGES = ("torch", "torchvision", "timm", "torchdistill", "accelerate", "pillow", "numpy")
# As many batches as two workers prepare while nobody asks for them.
LEAD = 4
LEAST_STEPS = 3


def main() -> None:
    """Measure, then write."""
    options = _options()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # for the contestants
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    if options.precision == "auto":
        options.precision = "bf16" if native_bf16(device) else "fp32"
    result: dict[str, Any] = {
        "kind": "throughput",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": describe_machine(options.device, PACKAGES),
        "precision": options.precision,
        "workers": options.workers,
        "titles": {key: entry.title for key, entry in CONTESTANTS.items()},
        "pairs": [],
    }
    for name in options.pairs:
        with tempfile.TemporaryDirectory(prefix="cmkd-throughput-") as folder:
            result["pairs"].append(measure_pair(name, Path(folder), options))

    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{options.name}.json").write_text(as_json(result), encoding="utf-8")
    draw(result, options.out / options.name)
    (options.out / "README.md").write_text(throughput_tables.readme(options.out), encoding="utf-8")
    print(f"wrote {options.out}")
    if options.out == throughput_tables.RESULTS:
        throughput_tables.fill_document()


def measure_pair(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return what was measured for a pair, by contestant."""
    pair = PAIRS[name]
    weights = prepare(pair, folder, options.data_root)
    cpu = options.device == "cpu"
    cache = write_cache(pair, folder, options.data_root, weights, options.precision, cpu)
    spec = {
        "pair": name,
        "folder": str(folder),
        "weights": str(weights),
        "cache": str(cache),
        "device": options.device,
        "precision": options.precision,
        "threads": options.threads,
        "workers": options.workers,
        "data_root": options.data_root,
    }
    data = load(pair, folder, options.data_root)
    contestants: dict[str, Contestant] = {}
    try:
        for key, entry in CONTESTANTS.items():
            if find_spec(entry.package) is None:
                print(f"left out: {entry.title}; pip install {entry.package}", flush=True)
                continue
            contestants[key] = Contestant(SCRIPT, {**spec, "contestant": key})
        found = measure(
            contestants, seconds=options.seconds, turn_seconds=options.turn_seconds, rounds=options.rounds
        )
    finally:
        for contestant in contestants.values():
            contestant.close()
    for key, each in found.items():
        rate = pair.batch_size / min(each["seconds"])
        print(f"{name}: {CONTESTANTS[key].title}: {rate:.0f} images/s in the best turn", flush=True)
    return {
        "name": name,
        "title": pair.title,
        "teacher": pair.teacher,
        "student": pair.student,
        "batch_size": pair.batch_size,
        "classes": data.num_classes,
        "contestants": found,
    }


def measure(
    contestants: Mapping[str, Contestant], *, seconds: float, turn_seconds: float, rounds: int
) -> dict[str, dict[str, Any]]:
    """Let the contestants take turns.

    Args:
        contestants: By key.
        seconds: After which no further round begins.
        turn_seconds: How long a turn should take.
        rounds: The least, made whatever they take.

    Returns:
        For each contestant `seconds` per step, one number per round; `steps` in a turn; the peak `memory` in
        bytes; and the `split` of a step's seconds by phase, in a turn of its own.
    """
    steps = {}
    for key, contestant in contestants.items():
        trial = contestant.turn(lead=LEAD, steps=LEAST_STEPS)["seconds"]
        steps[key] = max(math.ceil(turn_seconds / trial), LEAST_STEPS)
    keys = list(contestants)
    found: dict[str, dict[str, Any]] = {key: {"steps": steps[key], "seconds": []} for key in keys}
    start, done = time.perf_counter(), 0
    while done < rounds or time.perf_counter() - start < seconds:
        for offset in range(len(keys)):
            key = keys[(done + offset) % len(keys)]
            turn = contestants[key].turn(lead=LEAD, steps=steps[key])
            found[key]["seconds"].append(turn["seconds"])
            found[key]["memory"] = turn["memory"]
        done += 1
    for key, contestant in contestants.items():
        found[key]["split"] = contestant.turn(lead=LEAD, steps=steps[key], split=True)["split"]
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the embedded pair, two short rounds")
    parser.add_argument("--pairs", nargs="+", choices=list(PAIRS), help="all by default")
    parser.add_argument("--seconds", type=float, help="of measuring per pair (300; quick: 1)")
    parser.add_argument("--turn-seconds", type=float, help="of a turn (3; quick: 0.3)")
    parser.add_argument("--rounds", type=int, help="at least (5; quick: 2)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, default=2, help="processes that transform images")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--data-root", help="folder with CIFAR-100; made-up images of its size by default")
    parser.add_argument("--name", help="of the files (default: the device)")
    parser.add_argument("--out", type=Path, help="folder (results/throughput; quick: runs/throughput)")
    options = parser.parse_args()
    options.pairs = options.pairs or (["embedded"] if options.quick else list(PAIRS))
    options.seconds = options.seconds or (1.0 if options.quick else 300.0)
    options.turn_seconds = options.turn_seconds or (0.3 if options.quick else 3.0)
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.name = options.name or options.device
    options.out = options.out or ROOT / ("runs" if options.quick else "results") / "throughput"
    return options


if __name__ == "__main__":
    main()

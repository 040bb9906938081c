"""Time the Spearman loss and CMKD against KL, torch.sort and torchsort: one command, one run.

    python benchmarks/ranking.py --threads 2          # all sizes, about 5 minutes
    python benchmarks/ranking.py --quick              # a smoke test of a few seconds, into runs/
    python benchmarks/ranking.py --device cuda --name cuda-h100

Forward and backward with respect to the student's logits, the teacher's ranking included. Every round
measures each contestant once, in an order that rotates from round to round, so that whatever else the
machine does hits all alike; ratios are taken within the run. Writes `<name>.json` (every single time),
`<name>.png`, `<name>.svg`, and `README.md` with the tables of all JSON files in the folder; the tables of
`cpu.json` go into `docs/ranking.md` too.
"""

from __future__ import annotations

import argparse
import gc
import math
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import ranking_document
import torch
from ranking_contestants import Contestant, contestants
from ranking_machine import describe_machine
from ranking_memory import measure_apart
from ranking_picture import draw
from ranking_tables import readme
from torch import Tensor
from written import as_json

ROOT = Path(__file__).parents[1]
SIZES = ((64, 10), (64, 100), (256, 100), (256, 1000), (1024, 1000), (64, 21841), (16, 128000))
QUICK_SIZES = ((64, 10), (64, 100))
# A turn shorter than this is made of several calls, or the clock and the caches of others would be measured.
LEAST_TURN = 2e-3
# Who takes longer would take the others' time: it is left out, and shown as "–".
LONGEST_CALL = 2.0
# Below this the multiples would be those of thread stacks and caches.
LEAST_MEMORY = 500_000


def main() -> None:
    """Measure, then write."""
    options = _options()
    torch.set_num_threads(options.threads)
    found = contestants(options.device)
    result: dict[str, Any] = {
        "kind": "ranking",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": describe_machine(options.device),
        "dtype": options.dtype,
        "titles": {key: each.title for key, each in found.items()},
        "sizes": [],
    }
    for rows, classes in options.sizes:
        student, teacher = _logits(rows, classes, options)
        times = measure(found, student, teacher, budget=options.seconds, rounds=options.rounds)
        size_bytes = student.numel() * student.element_size()
        memory = {}
        if options.memory and size_bytes >= LEAST_MEMORY:
            for key in times:
                extra = measure_apart(
                    key, rows, classes, device=options.device, dtype=options.dtype, threads=options.threads
                )
                memory[key] = None if extra is None else extra / size_bytes
        result["sizes"].append({"rows": rows, "classes": classes, "seconds": times, "memory": memory})
        fastest = ", ".join(f"{key} {1e3 * min(each):.3g}" for key, each in times.items())
        print(f"{rows} x {classes}, fastest call in ms: {fastest}", flush=True)

    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{options.name}.json").write_text(as_json(result), encoding="utf-8")
    draw(result, options.out / options.name)
    (options.out / "README.md").write_text(readme(options.out), encoding="utf-8")
    print(f"wrote {options.out}")
    if options.out == ranking_document.RESULTS:
        ranking_document.main()


def measure(
    found: Mapping[str, Contestant],
    student: Tensor,
    teacher: Tensor,
    *,
    budget: float,
    rounds: tuple[int, int],
) -> dict[str, list[float]]:
    """Return the seconds of one call, one number per contestant and round.

    Args:
        found: The contestants, by key.
        student: Logits, (B, C), requiring grad.
        teacher: Logits, (B, C).
        budget: Seconds after which no further round begins.
        rounds: The least, made whatever they take, and the most.
    """
    calls = {}
    for key, contestant in found.items():
        first = _turn(contestant, student, teacher, 1)  # compiles, allocates, starts threads
        if first < 2 * LONGEST_CALL and (seconds := _turn(contestant, student, teacher, 1)) < LONGEST_CALL:
            calls[key] = math.ceil(LEAST_TURN / seconds)
        else:
            print(f"left out at {tuple(student.shape)}: {contestant.title}, {first:.1f} s a call", flush=True)
    keys = list(calls)
    times: dict[str, list[float]] = {key: [] for key in keys}
    collecting = gc.isenabled()
    gc.disable()
    start, done = time.perf_counter(), 0
    while done < rounds[0] or (done < rounds[1] and time.perf_counter() - start < budget):
        for offset in range(len(keys)):
            key = keys[(done + offset) % len(keys)]
            times[key].append(_turn(found[key], student, teacher, calls[key]))
        done += 1
    if collecting:
        gc.enable()
    return times


def _turn(contestant: Contestant, student: Tensor, teacher: Tensor, calls: int) -> float:
    """Return the mean time of consecutive calls, the device's work included."""
    _wait(student)
    start = time.perf_counter()
    for _ in range(calls):
        contestant.step(student, teacher)
    _wait(student)
    return (time.perf_counter() - start) / calls


def _wait(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def _logits(rows: int, classes: int, options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Draw logits; the student's follow the teacher's loosely, as in training."""
    generator = torch.Generator().manual_seed(0)
    teacher = 3 * torch.randn(rows, classes, generator=generator)
    student = 0.5 * teacher + 2 * torch.randn(rows, classes, generator=generator)
    place = {"device": options.device, "dtype": getattr(torch, options.dtype)}
    return student.to(**place).requires_grad_(), teacher.to(**place)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two sizes, one second each")
    parser.add_argument("--sizes", nargs="+", type=_size, metavar="BxC", help="for example 64x100")
    parser.add_argument("--seconds", type=float, help="of measuring per size (20; quick: 1)")
    parser.add_argument("--rounds", type=int, nargs=2, default=(5, 100), help="least and most per size")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16", "float64"])
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="measure times alone")
    parser.add_argument("--name", help="of the files (default: the device's type)")
    parser.add_argument("--out", type=Path, help="folder (results/ranking; quick: runs/ranking)")
    options = parser.parse_args()
    options.sizes = options.sizes or (QUICK_SIZES if options.quick else SIZES)
    options.seconds = options.seconds or (1.0 if options.quick else 20.0)
    options.name = options.name or torch.device(options.device).type
    options.out = options.out or ROOT / ("runs" if options.quick else "results") / "ranking"
    return options


def _size(text: str) -> tuple[int, int]:
    rows, _, classes = text.partition("x")
    return int(rows), int(classes)


if __name__ == "__main__":
    main()

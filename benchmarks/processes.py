"""What it costs to train in two processes instead of one, with the same number of threads in all.

    python benchmarks/processes.py --threads 2

Runs `cmkd distill` on the embedded data, a ResNet-20 teacher and a ResNet-8 student, batch 128: in one
process with all threads and in two with half of them each, in turns. No speed can be gained on one machine;
what is measured is what the processes have to tell each other. A run's first epoch is left out, and so is
validation.

Prints a table and writes it, with the numbers, to `results/processes`.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import torch
from ranking_machine import ROOT, describe_machine, in_words
from written import as_json, markdown_table

RESULT = ROOT / "results/processes/cpu.json"
IMAGES, BATCH_SIZE = 10_000, 128
#: Title and options of each way to train.
WAYS = {
    "one": ("one process", 1, []),
    "copied": ("two, weights copied (DDP)", 2, []),
    "sharded": ("two, weights spread (`--fsdp true`)", 2, ["--fsdp", "true"]),
}


def main() -> None:
    """Measure, and write what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="in all; even")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5, help="of a run, the first not counted")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    steps = 0
    for number in range(options.rounds):
        for way in list(WAYS)[number % len(WAYS) :] + list(WAYS)[: number % len(WAYS)]:
            with tempfile.TemporaryDirectory() as folder:
                epochs, steps = _run(way, Path(folder), options.threads, options.epochs)
            seconds[way].append(statistics.median(epochs) / steps)
            print(f"{WAYS[way][0]}: {1e3 * seconds[way][-1]:.2f} ms a step", flush=True)
    torch.set_num_threads(options.threads)
    result = {
        "kind": "processes",
        "date": date.today().isoformat(),
        "machine": describe_machine(packages=("torch", "accelerate")),
        "epochs": options.epochs,
        "batch_size": BATCH_SIZE,
        "seconds": seconds,
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(as_json(result), encoding="utf-8")
    text = table(result)
    RESULT.with_name("README.md").write_text(f"# Two processes and one\n\n{text}\n", encoding="utf-8")
    print(text)


def table(result: dict[str, Any]) -> str:
    """Return steps and their ratio to those of one process, and the setting."""
    alone = result["seconds"]["one"]
    rows = []
    for way, (title, _, _) in WAYS.items():
        ratios = [one / each for one, each in zip(alone, result["seconds"][way], strict=True)]
        milliseconds = 1e3 * statistics.median(result["seconds"][way])
        rows.append([title, f"{milliseconds:.1f}", f"{statistics.median(ratios):.2f}"])
    setting = (
        f"ResNet-20 to ResNet-8, 28 x 28, batch {result['batch_size']}, float32; medians of "
        f"{len(alone)} runs of {result['epochs']} epochs; {in_words(result['machine'])} {result['date']}."
    )
    return f"{markdown_table(['', 'ms a step', 'speed'], rows)}\n\n{setting}"


def _run(way: str, folder: Path, threads: int, epochs: int) -> tuple[list[float], int]:
    """Return the seconds of all epochs but the first, and the steps of one."""
    _, count, options = WAYS[way]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["distill", "--teacher", "src/cmkd/demo/teacher", "--student", "resnet8", *options]
    words += ["--validation", "0", "--batch_size", str(BATCH_SIZE), "--epochs", str(epochs)]
    words += ["--cpu", "true", "--precision", "fp32", "--out", str(folder / "run")]
    common = {"OMP_NUM_THREADS": str(threads // count), "WORLD_SIZE": str(count)}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    group = [
        subprocess.Popen(
            [sys.executable, "-m", "cmkd", *words],
            cwd=ROOT,
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        for process in group:
            _, errors = process.communicate()
            if process.returncode:
                raise SystemExit(errors)
    finally:
        for process in group:
            process.kill()
    lines = (folder / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["seconds"] for line in lines[1:]], IMAGES // BATCH_SIZE


if __name__ == "__main__":
    main()

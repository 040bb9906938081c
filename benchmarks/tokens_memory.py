"""Peak extra memory of losses on the tokens of a language model, each in a process of its own.

    python benchmarks/tokens_memory.py --out results/tokens

Measures what one step needs on top of the two logits, the gradient included, for every method: called on all
tokens that count, and by `TokenLoss` in chunks. A fifth of the tokens is padding. The CPU's peak comes from
Linux's `/proc`. Writes `memory.json` and the table in `README.md`.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

from memory_peak import answer_apart, begin, peak

METHODS = ("KD", "DKD", "CMKD")
WAYS = ("at once", "chunks", "chunks, top 64")


def measure_apart(method: str, way: str, options: argparse.Namespace) -> dict[str, float]:
    """Start a fresh process for one measurement, and return bytes and seconds.

    Raises:
        RuntimeError: The process failed; the message ends with what it said.
    """
    words = [__file__, "--method", method, "--way", way]
    for name in ("texts", "length", "classes", "threads"):
        words += [f"--{name}", str(getattr(options, name))]
    return answer_apart(words, f"{method} ({way})")


def measure(method: str, way: str, texts: int, length: int, classes: int) -> dict[str, float]:
    """Take one step in this process; return bytes of the logits of one side and of the peak, and seconds."""
    import torch

    from cmkd.losses import TokenLoss, resolve, top_logits

    loss = resolve(method)()
    distill = TokenLoss(loss)

    def step(student: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor) -> None:
        if way == "at once":
            kept = target != -100
            value = loss(student[kept], teacher[kept], target[kept])
        else:
            value = distill(student, top if "top" in way else teacher, target)
        torch.autograd.grad(value, student)

    def case(texts: int, length: int, classes: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        target = torch.randint(0, classes, (texts, length))
        target[:, length - length // 5 :] = -100
        shape = (texts, length, classes)
        return torch.randn(shape, requires_grad=True), torch.randn(shape), target

    torch.manual_seed(0)
    small = case(2, 20, 1000)
    top = top_logits(small[1], 64)
    step(*small)  # starts threads and kernels
    student, teacher, target = case(texts, length, classes)
    top = top_logits(teacher, 64)
    before, started = begin(), time.perf_counter()
    step(student, teacher, target)
    seconds = time.perf_counter() - started
    return {"logits": 4 * student.numel(), "peak": peak() - before, "seconds": seconds}


def table(record: dict) -> str:
    """Write the measurements as a table in units of the logits of one side."""
    lines = [
        f"| method | {' | '.join(WAYS)} |",
        "|---" + "|---:" * len(WAYS) + "|",
    ]
    for method in METHODS:
        cells = [record["measured"][f"{method}, {way}"] for way in WAYS]
        peaks = [f"{cell['peak'] / 2**20:,.0f} MiB ({cell['peak'] / cell['logits']:.1f})" for cell in cells]
        lines.append(f"| {method} | {' | '.join(peaks)} |")
    return "\n".join(lines) + "\n"


def readme(record: dict, out: str) -> str:
    """Write the page beside the numbers; `out` is the folder that it lies in."""
    texts, length, classes = (record[name] for name in ("texts", "length", "classes"))
    logits = 4 * texts * length * classes / 2**20
    command = f"python benchmarks/tokens_memory.py --texts {texts} --length {length} --out {out}"
    return f"""# Memory of losses on tokens

Peak memory of one step beyond the two logits, its gradient included: {texts} x {length} tokens, of which
a fifth is padding, {classes:,} classes, float32. The logits of one side are {logits:,.0f} MiB, and so is
the gradient; in parentheses the peak as a multiple of that. At once: the loss is called on the rows that
count. Chunks: by `TokenLoss`. Top 64: by `TokenLoss`, of a teacher that gives 64 classes.

{table(record)}
CPU, threads: {record["threads"]}, torch {record["torch"]}, {record["system"]}; one process for each cell.
Written by `{command}`.
"""


def main() -> None:
    """Measure everything and write it, or one thing for a parent process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--method", choices=METHODS)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--texts", type=int, default=4)
    parser.add_argument("--length", type=int, default=100)
    parser.add_argument("--classes", type=int, default=128_000)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()

    import torch

    if options.method:
        torch.set_num_threads(options.threads)
        sizes = (options.texts, options.length, options.classes)
        print(json.dumps(measure(options.method, options.way, *sizes)))
        return
    record = {
        **{name: getattr(options, name) for name in ("texts", "length", "classes", "threads")},
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "measured": {
            f"{method}, {way}": measure_apart(method, way, options) for method in METHODS for way in WAYS
        },
    }
    if options.out is None:
        print(table(record), end="")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "memory.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (options.out / "README.md").write_text(readme(record, options.out.as_posix()), encoding="utf-8")


if __name__ == "__main__":
    main()

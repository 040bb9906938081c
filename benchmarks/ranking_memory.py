"""Peak extra memory of one contestant at one size, in a process of its own.

    python benchmarks/ranking_memory.py torchsort 256 1000

Prints the bytes needed on top of the two logits, the gradient included, as JSON; `null` where the system
does not tell (the CPU's peak comes from Linux's `/proc`).
"""

from __future__ import annotations

import argparse
import json

from memory_peak import answer_apart, begin, peak, tells_peak


def measure_apart(key: str, rows: int, classes: int, *, device: str, dtype: str, threads: int) -> int | None:
    """Start a fresh process for the measurement and return its answer in bytes.

    Raises:
        RuntimeError: The process failed; the message ends with what it said.
    """
    words = [__file__, key, str(rows), str(classes)]
    words += ["--device", device, "--dtype", dtype, "--threads", str(threads)]
    return answer_apart(words, f"the memory of {key} at {rows} x {classes}")


def main() -> None:
    """Measure in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("contestant")
    parser.add_argument("rows", type=int)
    parser.add_argument("classes", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    import torch
    from ranking_contestants import contestants

    torch.set_num_threads(options.threads)
    contestant = contestants(options.device)[options.contestant]
    place = {"device": options.device, "dtype": getattr(torch, options.dtype)}
    # Just large enough for PyTorch to start its threads.
    contestant.step(torch.randn(40, 1000, requires_grad=True, **place), torch.randn(40, 1000, **place))
    shape = (options.rows, options.classes)
    student, teacher = torch.randn(shape, requires_grad=True, **place), torch.randn(shape, **place)

    if options.device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        contestant.step(student, teacher)
        print(json.dumps(torch.cuda.max_memory_allocated() - before))
        return
    if not tells_peak():
        print("null")
        return
    before = begin()
    contestant.step(student, teacher)
    print(json.dumps(peak() - before))


if __name__ == "__main__":
    main()

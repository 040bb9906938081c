"""The training loops that `benchmarks/throughput.py` compares, each run in a process of its own.

`limit-*` is the least that a loop can take that calls the networks as they are, in PyTorch's own way;
`cmkd-*` is `cmkd distill` itself, and the others are what people write and install (`throughput_peers`). On a
CPU cmkd may take less than the limits: it keeps freed memory and, with a live teacher, folds batch norm into
the convolutions, neither of which the limits do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from throughput_peers import plain_loop, timm_task, torchdistill_box
from throughput_turns import Turns, serve
from throughput_work import SGD, Work, open_work
from torch import nn

# More epochs than anybody waits for: the measuring side ends the run.
_EPOCHS = 1_000_000


def student_limit(work: Work) -> None:
    """Train on one fixed batch: forward, cross-entropy, backward, step, and nothing else."""
    student = work.student().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(student.parameters(), nesterov=True, fused=True, **SGD)
    images, targets = work.fixed_batch()
    work.turns.clock.watch("student", student)
    while True:
        with work.autocast():
            logits = student(images)
        F.cross_entropy(logits.float(), targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        work.turns.step()


def teacher_limit(work: Work) -> None:
    """Ask the teacher about one fixed batch."""
    teacher = work.teacher().to(memory_format=torch.channels_last)
    images, _ = work.fixed_batch()
    work.turns.clock.watch("teacher", teacher)
    while True:
        with torch.inference_mode(), work.autocast():
            teacher(images)
        work.turns.step()


def cmkd(work: Work, *, loss: str, cached: bool) -> None:
    """Run `cmkd distill`, with a display that does nothing but count the steps."""
    from cmkd.training import DistillConfig, distill, images, runs
    from cmkd.training.progress import Progress

    class Steps(Progress):
        def step(self, *_: Any) -> None:
            work.turns.step()

    fit, data = runs.fit, work.data

    def watched_fit(student: nn.Module, objective: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        clock, teacher = work.turns.clock, kwargs["teacher"]
        clock.watch("student", student)
        clock.watch("loss", objective)
        if isinstance(teacher, nn.Module):
            clock.watch("teacher", teacher)
        else:
            kwargs["teacher"] = clock.call("teacher", teacher)
        kwargs["progress"] = Steps(enabled=False)
        return fit(student, objective, *args, **kwargs)

    runs.fit = watched_fit
    images.datasets.load = lambda *_, **__: data  # made-up images have no name that it knows
    config = DistillConfig(
        data=data.name,
        teacher=None if cached else work.pair.teacher,
        teacher_weights=None if cached else str(work.weights),
        cache=str(work.cache) if cached else None,
        student=work.pair.student,
        loss={"name": loss},
        validation=0.0,
        epochs=_EPOCHS,
        batch_size=work.pair.batch_size,
        schedule="constant",
        warmup_epochs=0,
        precision=work.precision,
        workers=work.workers,
        cpu=work.device.type == "cpu",
        out=str(work.folder / f"run-{loss}-{'cached' if cached else 'live'}"),
        **SGD,
    )
    distill(config, progress=False)


@dataclass(frozen=True)
class Entry:
    """A contestant.

    Args:
        title: For tables and pictures.
        run: Trains until the turns end.
        package: What has to be installed for it.
    """

    title: str
    run: Callable[[Work], None]
    package: str = "cmkd"


CONTESTANTS = {
    "limit-student": Entry("student alone, fixed batch", student_limit),
    "limit-teacher": Entry("teacher alone, fixed batch", teacher_limit),
    "cmkd-cache-kd": Entry("cmkd, cached teacher, KD", lambda work: cmkd(work, loss="KD", cached=True)),
    "cmkd-cache-cmkd": Entry("cmkd, cached teacher, CMKD", lambda work: cmkd(work, loss="CMKD", cached=True)),
    "cmkd-live-kd": Entry("cmkd, live teacher, KD", lambda work: cmkd(work, loss="KD", cached=False)),
    "cmkd-live-cmkd": Entry("cmkd, live teacher, CMKD", lambda work: cmkd(work, loss="CMKD", cached=False)),
    "plain": Entry("plain loop, KD", plain_loop),
    "torchdistill": Entry("torchdistill, KD", torchdistill_box, "torchdistill"),
    "timm": Entry("timm's task, KD", timm_task, "timm"),
}


def _run(spec: dict[str, Any], turns: Turns) -> None:
    torch.set_num_threads(spec["threads"])
    CONTESTANTS[spec["contestant"]].run(open_work(spec, turns))


if __name__ == "__main__":
    serve(_run)

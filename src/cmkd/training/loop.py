"""The training loop. Everything that happens in a run's epochs happens in `fit`, from top to bottom."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from cmkd.data import Batch, Loader
from cmkd.errors import InputError, Interrupted
from cmkd.losses.features import Outputs
from cmkd.stopping import stop_requests
from cmkd.training.config import RunConfig
from cmkd.training.meters import Meters
from cmkd.training.objective import Objective
from cmkd.training.optim import learning_rate
from cmkd.training.processes import Processes
from cmkd.training.progress import Progress
from cmkd.training.run_folder import RunFolder
from cmkd.training.step import Trained, TrainingStep

logger = logging.getLogger(__name__)


def fit(
    student: nn.Module,
    objective: Objective,
    loader: Loader,
    *,
    config: RunConfig,
    folder: RunFolder,
    accelerator: Accelerator,
    processes: Processes,
    unused_parameters: bool = False,
    layers: Sequence[str] = (),
    teacher: Callable[[Batch], Tensor | Outputs] | None = None,
    judges: Mapping[str, Callable[[nn.Module], dict[str, float]]] | None = None,
    progress: Progress | None = None,
) -> nn.Module:
    """Train a network, going on from the folder's checkpoint if there is one.

    Every random choice is a function of the seed and of the position (epoch, batch), or of a generator whose
    state is in the checkpoint; a run that was killed therefore ends with the weights, bit for bit, of a
    run that was not, on the same devices (CPU or CUDA) and number of threads.

    Several processes go through it together, each with its part of every batch. They leave it together, too:
    what one of them is asked or fails at, all learn.

    Args:
        student: Network to train, on the accelerator's device.
        objective: Task loss and distillation loss.
        loader: Training batches.
        config: The run's options.
        folder: Where state and metrics are kept.
        accelerator: Device and precision.
        processes: The processes that train.
        unused_parameters: Whether parameters of the student have no part in its answer.
        layers: The student's layers whose features the losses compare.
        teacher: Maps a batch to teacher logits `(B, C)`, with features if a loss compares them; None trains
            on labels alone.
        judges: By part of the data, called after every epoch, in all processes, with the network to judge;
            what they return in the main one is logged.
        progress: Display; none by default.

    Returns:
        The trained network: `student`, or its moving average if the run keeps one.

    Raises:
        Interrupted: SIGINT or SIGTERM arrived at a process; the state is saved.
        InputError: The loss is no longer finite, or the checkpoint cannot be read or written.
    """
    kind = Trained
    if config.fsdp and processes.count > 1:
        from cmkd.training.sharding import ShardedTrained as kind  # a second of imports that few need
    trained = kind(
        TrainingStep(student, objective, layers=layers),
        config,
        accelerator,
        unused_parameters=unused_parameters,
    )
    average = _moving_average(student, config.ema_decay)
    meters = Meters(accelerator.device)
    progress = progress or Progress(enabled=False)
    steps_per_epoch = len(loader)
    position: dict[str, Any] = {"epoch": 0, "batch": 0, "metrics_bytes": 0, "seconds": 0.0}

    def save() -> None:
        state = {"position": position, **trained.state_dict(), "meters": meters.over(processes).state_dict()}
        state["rng"] = processes.share(_rng_state(accelerator.device))
        if average is not None:
            state["average"] = average.state_dict()
        with processes.together():
            if processes.is_main:
                folder.save_state(state)

    with processes.together():
        checkpoint = folder.load_state() if processes.is_main else None
    checkpoint = processes.from_main(checkpoint)
    if checkpoint is not None:
        position = checkpoint["position"]
        trained.load_state_dict(checkpoint)
        if processes.is_main:
            meters.load_state_dict(checkpoint["meters"])
        if average is not None:
            average.load_state_dict(checkpoint["average"])
        if len(checkpoint["rng"]) == processes.count:  # else its environment differs, which is warned of
            _set_rng_state(checkpoint["rng"][processes.rank], accelerator.device)
        logger.info("continuing at epoch %d, batch %d", position["epoch"] + 1, position["batch"])
    if processes.is_main:
        folder.truncate_metrics(position["metrics_bytes"])

    last_save = time.monotonic()
    done = position["epoch"] * steps_per_epoch + position["batch"]
    with stop_requests() as stop_requested, progress.run(config.epochs, steps_per_epoch, done=done):
        for epoch in range(position["epoch"], config.epochs):
            student.train()
            started = time.monotonic()
            for batch in loader.epoch(epoch, start=position["batch"]):
                step = epoch * steps_per_epoch + position["batch"]
                for group in trained.optimizer.param_groups:
                    group["lr"] = learning_rate(step, steps_per_epoch, config)

                objective.set_epoch(step / steps_per_epoch)
                fade = _fade(step, steps_per_epoch, getattr(config, "distill_warmup_epochs", 0.0))
                with accelerator.autocast():
                    taught = None if teacher is None else teacher(batch)
                    indices = batch.indices if layers else None
                    loss, logits, parts = trained.run(batch.images, taught, batch.targets, fade, indices)
                accelerator.backward(loss)
                if config.clip_grad is not None:
                    accelerator.clip_grad_norm_(trained.step.parameters(), config.clip_grad)
                trained.optimizer.step()
                trained.optimizer.zero_grad(set_to_none=True)
                if average is not None:
                    average.update_parameters(student)

                meters.add(loss.detach(), logits.detach(), batch.targets, parts)
                position["batch"] += 1
                now = time.monotonic()
                position["seconds"] += now - started
                started = now
                progress.step(epoch, position["batch"], meters)
                save_due = processes.is_main and time.monotonic() - last_save > config.checkpoint_seconds
                if save_due:
                    last_save = time.monotonic()  # wished for once, though several processes vote a step late
                stop, save_now = processes.vote(stop_requested.is_set(), save_due)
                if stop or save_now:
                    _refuse_divergence(meters, epoch, processes)
                    save()
                    last_save = started = time.monotonic()
                    if stop:
                        raise Interrupted

            _refuse_divergence(meters, epoch, processes)
            processes.same_buffers(trained.step if average is None else average)
            last_lr = learning_rate((epoch + 1) * steps_per_epoch - 1, steps_per_epoch, config)
            row: dict[str, Any] = {
                "epoch": epoch + 1,
                "lr": last_lr,
                "seconds": round(position["seconds"], 3),
            }
            totals = meters.over(processes)
            row["train"], row["histograms"] = totals.means(), totals.histograms()
            if judges:
                network = trained.student() if average is None else average.module
                row |= {part: judged(network) for part, judged in judges.items()}
            with processes.together():
                if processes.is_main:
                    position["metrics_bytes"] = folder.append_metrics(row)
            progress.epoch(row)
            meters.reset()
            position |= {"epoch": epoch + 1, "batch": 0, "seconds": 0.0}
            save()
            last_save = time.monotonic()
            (stop,) = processes.any(stop_requested.is_set())
            if stop and epoch + 1 < config.epochs:
                raise Interrupted
    return trained.student() if average is None else average.module


def _fade(step: int, steps_per_epoch: int, warmup_epochs: float) -> float:
    return min((step + 1) / (warmup_epochs * steps_per_epoch), 1.0) if warmup_epochs else 1.0


def _moving_average(student: nn.Module, decay: float | None) -> torch.optim.swa_utils.AveragedModel | None:
    if decay is None:
        return None
    return torch.optim.swa_utils.AveragedModel(
        student, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(decay), use_buffers=True
    )


def _refuse_divergence(meters: Meters, epoch: int, processes: Processes) -> None:
    """Stop before a checkpoint is overwritten with weights that are lost."""
    loss = meters.over(processes).means()["loss"]
    with processes.together():
        if not math.isfinite(loss):
            raise InputError(
                f"the loss became {loss} in epoch {epoch + 1}; lower --lr, set --clip_grad 1, "
                "or take --precision fp32."
            )


def _rng_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_rng_state(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)

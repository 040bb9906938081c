"""Judging a network: on a part of the data after every epoch, on the test set when it is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn

from cmkd import models
from cmkd.data import Batch, ImageData, Loader
from cmkd.evaluation import collect_logits, cpu_latency, evaluate_logits, on_images
from cmkd.teachers import EnsembleTeacher, LiveTeacher
from cmkd.training.processes import Processes
from cmkd.training.run_folder import RunFolder


def judge_of(
    loader: Loader,
    teacher: LiveTeacher | EnsembleTeacher | None,
    accelerator: Accelerator,
    processes: Processes,
) -> tuple[Callable[[nn.Module], dict[str, float]], float | None]:
    """Return the function that judges a network on a part of the data, and the teacher's accuracy there.

    Every process has to call it, and runs the network on its part of the images. What is found is known to
    the main one; the others get an empty dictionary, and no accuracy.
    """

    def run(network: Callable[[Batch], Tensor]) -> tuple[Tensor, Tensor] | None:
        with accelerator.autocast():
            return collect(network, loader, processes)

    # These images are not augmented: the teacher says the same in every epoch.
    said = None if teacher is None else run(teacher)
    accuracy = None if said is None else evaluate_logits(*said, None)["accuracy"]
    teacher_logits = None if said is None else said[0]

    def judged(network: nn.Module) -> dict[str, float]:
        answered = run(on_images(network))
        return {} if answered is None else evaluate_logits(*answered, teacher_logits)

    return judged, accuracy


def collect(
    network: Callable[[Batch], Tensor], loader: Loader, processes: Processes
) -> tuple[Tensor, Tensor] | None:
    """Run a network over the images of a loader that does not shuffle, each process over its part.

    Returns:
        Logits `(N, C)` and targets `(N,)` of all images in the main process, None in the others.
    """
    logits, targets = collect_logits(network, loader.epoch(0))
    if processes.count == 1:
        return logits, targets
    parts = processes.gather((logits.cpu(), targets.cpu()))
    if not parts:
        return None
    return loader.in_order([part[0] for part in parts]), loader.in_order([part[1] for part in parts])


def judge(
    student: nn.Module,
    data: ImageData,
    loader: Loader,
    teacher: LiveTeacher | EnsembleTeacher | None,
    processes: Processes,
) -> dict[str, Any]:
    """Look at the test set when all is done, and at what an answer takes.

    Args:
        student: The trained network.
        data: The data set.
        loader: Its test images.
        teacher: What it learnt from, if that is at hand.
        processes: The processes of the run, which all have to call this.

    Returns:
        What `result.json` begins with, in the main process; an empty dictionary in the others.
    """
    answered = collect(on_images(student), loader, processes)
    said = None if teacher is None else collect(teacher, loader, processes)
    if answered is None:
        return {}
    logits, targets = answered
    result: dict[str, Any] = {"images": len(targets)}
    if teacher is not None and said is not None:
        result["teacher"] = evaluate_logits(said[0], targets, None)
        # Members are run one after the other.
        times = [cpu_latency(each.network, each.image_size or data.image_size) for each in teacher.members]
        result["teacher"] |= {key: sum(each[key] for each in times) for key in times[0]}
    result["test"] = evaluate_logits(logits, targets, None if said is None else said[0])
    return result


def keep_result(
    folder: RunFolder,
    result: dict[str, Any],
    student: nn.Module,
    network: str,
    data: ImageData,
    bad_images: dict[str, dict[int, str]],
) -> None:
    """Write the network and the result; `result.json` comes last.

    Args:
        folder: The run's folder.
        result: What `judge` found; nothing if the test set is not to be looked at.
        student: The trained network.
        network: Its name.
        data: The data set.
        bad_images: By part, index and message of the images that could not be decoded.
    """
    rows = folder.read_metrics()
    judged = [row for row in rows if "validation" in row]
    if judged:
        best = max(judged, key=lambda row: row["validation"]["accuracy"])
        result["best_validation"] = {"epoch": best["epoch"], "accuracy": best["validation"]["accuracy"]}
        result["last_validation"] = judged[-1]["validation"]
    result["parameters"] = models.count_parameters(student)
    result["train_seconds"] = round(sum(row["seconds"] for row in rows), 1)
    result |= cpu_latency(student, data.image_size)
    if bad_images:
        result["bad_images"] = {part: len(bad) for part, bad in bad_images.items()}
        folder.write_json("bad_images.json", bad_images)
    models.save_weights(student, folder.path / "student.safetensors")
    folder.write_json(
        "model.json",
        {
            "network": network,
            "num_classes": data.num_classes,
            "classes": list(data.classes),
            "mean": list(data.mean),
            "std": list(data.std),
            "image_size": data.image_size,
            "channels": data.channels,
            "framing": data.framing,
            "data": data.name,
        },
    )
    folder.write_json("result.json", result)

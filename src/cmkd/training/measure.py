"""Measuring a finished run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.state import PartialState

from cmkd import data as datasets
from cmkd import models
from cmkd.data import Loader
from cmkd.errors import InputError
from cmkd.evaluation import collect_logits, cpu_latency, evaluate_logits, on_images
from cmkd.teachers import open_teachers
from cmkd.teachers.opening import load_run_network
from cmkd.training.run_folder import RunFolder


def evaluate(
    run: str | Path,
    *,
    part: Literal["test", "validation"] = "test",
    data_root: str | None = None,
    cpu: bool = False,
) -> dict[str, Any]:
    """Measure the network of a finished run, in float32, beside its teacher if it has one.

    Args:
        run: Run folder.
        part: The test set, or the validation part that the run held out.
        data_root: Folder with the data set's files, if it is not where the run found it.
        cpu: Stay on the CPU even if there is an accelerator.

    Returns:
        `student` and, for a distilled network, `teacher`: the scores of `cmkd.evaluation`; `images`,
        `parameters` and the latency on the CPU.

    Raises:
        InputError: The folder is no finished run, or its data or teacher are not to be had.
    """
    run = Path(run)
    network, card = load_run_network(run)
    folder = RunFolder(run)
    config = folder.read_config()
    device = PartialState(cpu=cpu).device
    data = datasets.load(
        config["data"],
        data_root or config["data_root"],
        image_size=card["image_size"],
        bad_images=config.get("bad_images", "fail"),
        image_column=config.get("image_column"),
        label_column=config.get("label_column"),
    )
    if data.num_classes != card["num_classes"]:
        raise InputError(f"{run} has {card['num_classes']} classes, its data now {data.num_classes}.")
    images, indices = data.test, None
    if part == "validation":
        if not config["validation"]:
            raise InputError(f"{run} held no validation part out; take --part test.")
        images = data.train
        _, indices = datasets.split(data.train.targets, config["validation"], config["seed"])
    batches = Loader(
        images,
        indices=indices,
        mean=data.mean,
        std=data.std,
        image_size=data.image_size,
        batch_size=config["batch_size"],
        device=device,
        workers=config["workers"],
    )
    network = network.to(device).to(memory_format=torch.channels_last)
    logits, targets = collect_logits(on_images(network), batches.epoch(0))
    scores: dict[str, Any] = {"images": len(targets), "part": part}
    teacher_logits = None
    if config["verb"] == "distill" and config["teacher"] is not None:  # it may have left its logits alone
        teacher, report = open_teachers(
            config["teacher"],
            data,
            weights=config["teacher_weights"],
            mean=config["teacher_mean"],
            std=config["teacher_std"],
            image_size=config.get("teacher_image_size"),
            device=device,
        )
        folder.refuse_other_teacher(report.source, report.sha256)
        teacher_logits, _ = collect_logits(teacher, batches.epoch(0))
        scores["teacher"] = evaluate_logits(teacher_logits, targets, None)
    scores["student"] = evaluate_logits(logits, targets, teacher_logits)
    scores["parameters"] = models.count_parameters(network)
    scores |= cpu_latency(network, data.image_size)
    return scores

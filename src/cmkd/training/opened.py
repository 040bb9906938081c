"""A finished run with its data and, where it is at hand, its teacher, to be measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cmkd import data as datasets
from cmkd.data import Batch, ImageData, Loader
from cmkd.errors import InputError
from cmkd.evaluation import on_images
from cmkd.teachers import EnsembleTeacher, LiveTeacher, TeacherReport, open_teachers
from cmkd.teachers.opening import load_run_network, run_folder
from cmkd.training.run_folder import RunFolder


@dataclass
class OpenedRun:
    """A run with all that is needed to measure it.

    Attributes:
        config: The run's options.
        network: Its network, on the device, in eval mode.
        name: The network's name.
        data: Its data set.
        device: Where its networks run.
        part: The part of the data that is measured: `test` or `validation`.
        loader: Its images, not augmented.
        validation: What the run held out, unless that is measured.
        unseen: Training images that the teacher was not trained on, sorted; None if that is not known.
        teacher_validation: Those, unless the part that the run held out is measured.
        teacher: Its teacher, if it is at hand.
        report: What is known of the teacher.
        missing: What is not there, and why.
    """

    config: dict[str, Any]
    network: nn.Module
    name: str
    data: ImageData
    device: torch.device
    part: str
    loader: Loader
    validation: Loader | None
    unseen: Tensor | None
    teacher_validation: Loader | None
    teacher: LiveTeacher | EnsembleTeacher | None
    report: TeacherReport | None
    missing: dict[str, str]

    @property
    def networks(self) -> dict[str, Callable[[Batch], Tensor]]:
        """The `student` and, if it is at hand, the `teacher`, as functions from a batch to its logits."""
        networks: dict[str, Callable[[Batch], Tensor]] = {"student": on_images(self.network)}
        return networks if self.teacher is None else networks | {"teacher": self.teacher}

    def loader_of(self, indices: Tensor) -> Loader:
        """Return a loader of these images of the part that is measured, not augmented."""
        loader = self.loader
        return Loader(
            loader.images,
            indices=indices,
            mean=self.data.mean,
            std=self.data.std,
            image_size=self.data.image_size,
            batch_size=loader.batch_size,
            device=self.device,
            workers=loader.workers,
        )


def open_run(path: Path, part: str | None, data_root: str | None, device: torch.device) -> OpenedRun:
    """Open a run with all that is needed to measure it.

    Args:
        path: Run folder.
        part: The part of the data that `loader` shall read: `test` or `validation`; by default the test set,
            but the validation part of a run that was told never to look at that.
        data_root: Folder with the data set's files, if it is not where the run found it.
        device: Where the networks shall run.

    Raises:
        InputError: The folder is no finished run, its data is not to be had, or its teacher has other weights
            now.
    """
    network, card = load_run_network(path)
    folder = RunFolder(path)
    config = folder.read_config()
    data = datasets.load(
        config["data"],
        data_root or config["data_root"],
        image_size=card["image_size"],
        bad_images=config.get("bad_images", "fail"),
        image_column=config.get("image_column"),
        label_column=config.get("label_column"),
    )
    data = data.normalised(card["mean"], card["std"])  # as the network was trained
    if data.num_classes != card["num_classes"]:
        raise InputError(f"{path} has {card['num_classes']} classes, its data now {data.num_classes}.")
    for index, (then, now) in enumerate(zip(card.get("classes", data.classes), data.classes, strict=True)):
        if then != now:
            raise InputError(
                f"class {index} was {then!r} when {path} was trained, and is {now!r} in {data.name} now; "
                "give the data as they were, by --data_root if they lie elsewhere."
            )
    part = part or ("validation" if config.get("test") == "never" else "test")
    if part == "validation" and not config["validation"]:
        raise InputError(f"{path} held no validation part out; take --part test.")
    common: dict[str, Any] = {
        "mean": data.mean,
        "std": data.std,
        "image_size": data.image_size,
        "batch_size": config["batch_size"],
        "device": device,
        "workers": config["workers"],
    }
    missing: dict[str, str] = {}
    held_out = None
    if config["validation"]:
        _, indices = datasets.split(data.train.targets, config["validation"], config["seed"])
        held_out = Loader(data.train, indices=indices, **common)
    else:
        missing["temperature"] = "the run held no validation part out to fit a temperature on"
    if part == "validation":
        assert held_out is not None
        missing["temperature"] = "a temperature would be fitted on the images that are measured here"
    teacher, report = _open_teacher(folder, config, data, device, missing)
    unseen = None if teacher is None else _unseen(config, data, missing)
    return OpenedRun(
        config=config,
        network=network.to(device).to(memory_format=torch.channels_last),
        name=card["network"],
        data=data,
        device=device,
        part=part,
        loader=held_out if part == "validation" and held_out else Loader(data.test, **common),
        validation=held_out if part == "test" else None,
        unseen=unseen,
        teacher_validation=Loader(data.train, indices=unseen, **common)
        if part == "test" and unseen is not None and len(unseen)
        else None,
        teacher=teacher,
        report=report,
        missing=missing,
    )


def _open_teacher(
    folder: RunFolder,
    config: Mapping[str, Any],
    data: ImageData,
    device: torch.device,
    missing: dict[str, str],
) -> tuple[LiveTeacher | EnsembleTeacher | None, TeacherReport | None]:
    """Open the teacher of a run; where it is not to be had, say so in `missing`."""
    if config["verb"] != "distill":
        missing["teacher"] = "the network was trained on labels alone"
        return None, None
    if config["teacher"] is None:
        missing["teacher"] = "the run had the logits of a cache, and names no teacher"
        return None, None
    try:
        teacher, report = open_teachers(
            config["teacher"],
            data,
            weights=config["teacher_weights"],
            mean=config["teacher_mean"],
            std=config["teacher_std"],
            image_size=config.get("teacher_image_size"),
            device=device,
        )
    except InputError as error:
        missing["teacher"] = f"not at hand: {error}"
        return None, None
    folder.refuse_other_teacher(report.source, report.sha256)
    return teacher, report


def _unseen(config: Mapping[str, Any], data: ImageData, missing: dict[str, str]) -> Tensor | None:
    """Return the images that all networks of the teacher held out; why there are none, say in `missing`."""
    names = [config["teacher"]] if isinstance(config["teacher"], str) else config["teacher"]
    kept = torch.zeros(len(data.train), dtype=torch.bool)
    for name in names:
        folder = RunFolder(run_folder(name))
        theirs = folder.read_config() if (folder.path / "config.yaml").exists() else {}
        begun_with = theirs.get("weights") or theirs.get("student_weights")
        if theirs.get("data") != config["data"] or begun_with not in (None, "pretrained"):
            missing["teacher_temperature"] = (
                f"which of these images the teacher {name} was trained on is not known, and of those it is "
                "surer than of others"
            )
            return None
        kept[datasets.split(data.train.targets, theirs["validation"], theirs["seed"])[0]] = True
    unseen = (~kept).nonzero().squeeze(1)
    if not len(unseen):
        missing["teacher_temperature"] = "the teacher held no validation part out to fit a temperature on"
    return unseen

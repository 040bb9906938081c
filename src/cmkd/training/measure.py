"""Measuring a finished run: what `cmkd evaluate` does."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from cmkd import data as datasets
from cmkd.data import ImageData, Loader
from cmkd.errors import InputError
from cmkd.evaluation import collect_all, on_images, sections
from cmkd.evaluation.cost import cost, summed
from cmkd.evaluation.robustness import RobustnessOptions, robustness
from cmkd.files import write_atomic
from cmkd.teachers import EnsembleTeacher, LiveTeacher, TeacherReport, open_teachers
from cmkd.teachers.opening import load_run_network, run_folder
from cmkd.training import environment
from cmkd.training.processes import process_state
from cmkd.training.run_folder import RunFolder

#: Where the measurements of a run are kept.
STORED = "evaluation.json"


def evaluate(
    run: str | Path,
    *,
    part: Literal["test", "validation"] = "test",
    corruptions: str | Sequence[str] | None = None,
    severities: str | Sequence[int] = "1..5",
    corruption_images: int | None = None,
    seed: int = 0,
    data_root: str | None = None,
    cpu: bool = False,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Measure the network of a finished run, in float32, beside its teacher if it has one.

    Args:
        run: Run folder.
        part: The test set, or the validation part that the run held out.
        corruptions: Corruptions to measure under as well: names or groups of them, `true` for all, none by
            default.
        severities: Severities of the corruptions, such as `1..5` or `1,3`.
        corruption_images: Number of images to corrupt, the same share of every class; all by default.
        seed: Seed of the corruptions and of the choice of these images.
        data_root: Folder with the data set's files, if it is not where the run found it.
        cpu: Stay on the CPU even if there is an accelerator.
        out: File to write, `evaluation.json` in the run folder by default.

    Returns:
        What is written: `setting`; `student` and, where its teacher is at hand, `teacher`, the scores of
        `cmkd.evaluation.evaluate_logits`; `accuracy`, `fidelity`, `calibration`, `robustness` and `cost` in
        detail; `missing`, what is not there and why. `docs/evaluate.md` defines every number.

    Raises:
        InputError: The folder is no finished run, its data is not to be had, its teacher has other weights
            now, an option cannot be met, or the file cannot be written.
    """
    asked = RobustnessOptions.of(corruptions, severities, images=corruption_images, seed=seed)
    path = Path(run)
    target = Path(out) if out is not None else path / STORED
    _require_writable(target)  # before minutes of measuring, not after
    opened = _open(path, part, data_root, torch.device(process_state(cpu=cpu).device))
    network, data = opened.network, opened.data
    networks: dict[str, Any] = {"student": on_images(network)}
    if opened.teacher is not None:
        networks["teacher"] = opened.teacher
    logits, targets, indices = collect_all(networks, opened.loader.epoch(0))
    teacher_logits = logits.get("teacher")
    fitted = None
    if opened.validation is not None:
        fitted = collect_all(networks, opened.validation.epoch(0))[:2]
    missing = opened.missing
    found: dict[str, Any] = {
        "setting": _setting(opened, part, len(targets), seed),
        "classes": list(data.classes),
        **sections(logits["student"], teacher_logits, targets, indices, fitted, missing),
    }
    if asked is None:
        missing["robustness"] = "not asked for: --corruptions true"
    else:
        found["robustness"] = robustness(networks, opened.loader, data, asked)
    found["cost"] = _cost(opened, path)
    found["missing"] = missing
    write_atomic(target, _as_text(found))
    return found


@dataclass
class _Opened:
    """A run with all that is needed to measure it."""

    config: dict[str, Any]
    network: nn.Module
    name: str
    data: ImageData
    device: torch.device
    loader: Loader
    validation: Loader | None
    teacher: LiveTeacher | EnsembleTeacher | None
    report: TeacherReport | None
    missing: dict[str, str]


def _open(path: Path, part: str, data_root: str | None, device: torch.device) -> _Opened:
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
    if data.num_classes != card["num_classes"]:
        raise InputError(f"{path} has {card['num_classes']} classes, its data now {data.num_classes}.")
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
    return _Opened(
        config=config,
        network=network.to(device).to(memory_format=torch.channels_last),
        name=card["network"],
        data=data,
        device=device,
        loader=held_out if part == "validation" and held_out else Loader(data.test, **common),
        validation=held_out if part == "test" else None,
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


def _setting(opened: _Opened, part: str, images: int, seed: int) -> dict[str, Any]:
    config, report = opened.config, opened.report
    return {
        "data": config["data"],
        "part": part,
        "images": images,
        "num_classes": opened.data.num_classes,
        "student": opened.name,
        "teacher": None if report is None else {"network": report.network, "sha256": report.sha256},
        "run_seed": config["seed"],
        "label_noise": config.get("label_noise"),
        "seed": seed,
        "batch_size": config["batch_size"],
        **environment.describe(opened.device, "fp32", 1),
    }


def _cost(opened: _Opened, path: Path) -> dict[str, Any]:
    size, device = opened.data.image_size, opened.device
    found = {"student": cost(opened.network, size, device, weights=path / "student.safetensors")}
    if opened.teacher is not None:
        names = opened.config["teacher"]
        names = [names] if isinstance(names, str) else names
        found["teacher"] = summed(
            [
                cost(
                    member.network,
                    member.image_size or size,
                    device,
                    weights=run_folder(name) / "student.safetensors",
                )
                for name, member in zip(names, opened.teacher.members, strict=True)
            ]
        )
    return found


def _require_writable(file: Path) -> None:
    folder = next(each for each in file.absolute().parents if each.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK) or file.is_dir():
        raise InputError(f"cannot write {file}; give another --out, or mend the permissions.")


def _as_text(found: Mapping[str, Any]) -> str:
    """Return JSON with a line for every section: lists of thousands of numbers have no line each."""
    lines: Iterable[str] = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in found.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"

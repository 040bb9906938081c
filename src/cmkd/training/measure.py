"""Measuring a finished run: what `cmkd evaluate` does."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cmkd.data import Batch, Loader
from cmkd.errors import InputError
from cmkd.evaluation import collect_all, sections
from cmkd.evaluation.cost import cost, summed
from cmkd.evaluation.robustness import RobustnessOptions, robustness
from cmkd.files import write_atomic
from cmkd.teachers.opening import run_folder
from cmkd.training import environment
from cmkd.training.opened import OpenedRun, open_run
from cmkd.training.processes import process_state

#: Where the measurements of a run are kept.
STORED = "evaluation.json"


def evaluate(
    run: str | Path,
    *,
    part: Literal["test", "validation"] | None = None,
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
        part: The test set, or the validation part that the run held out; by default the test set, but the
            validation part of a run with `test="never"`, as trials are.
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
    opened = open_run(path, part, data_root, torch.device(process_state(cpu=cpu).device))
    networks, data = opened.networks, opened.data
    logits, targets, indices = collect_all(networks, opened.loader.epoch(0))
    teacher_logits = logits.get("teacher")
    fitted = {
        name: _answers(name, networks[name], loader)
        for name, loader in (("student", opened.validation), ("teacher", opened.teacher_validation))
        if name in networks and loader is not None
    }
    missing = opened.missing
    found: dict[str, Any] = {
        "setting": _setting(opened, indices, seed),
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


def _answers(name: str, network: Callable[[Batch], Tensor], loader: Loader) -> tuple[Tensor, Tensor]:
    """Return the logits of one network, and the targets."""
    logits, targets, _ = collect_all({name: network}, loader.epoch(0))
    return logits[name], targets


def _setting(opened: OpenedRun, indices: Tensor, seed: int) -> dict[str, Any]:
    config, report = opened.config, opened.report
    seen: int | None = 0
    if opened.part == "validation":
        unseen = opened.unseen
        seen = None if unseen is None else int((~torch.isin(indices.cpu(), unseen)).sum())
    return {
        "data": config["data"],
        "part": opened.part,
        "images": len(indices),
        "num_classes": opened.data.num_classes,
        "student": opened.name,
        "teacher": None
        if report is None
        else {"network": report.network, "sha256": report.sha256, "trained_on": seen},
        "run_seed": config["seed"],
        "label_noise": config.get("label_noise"),
        "seed": seed,
        "batch_size": config["batch_size"],
        **environment.describe(opened.device, "fp32", 1),
    }


def _cost(opened: OpenedRun, path: Path) -> dict[str, Any]:
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

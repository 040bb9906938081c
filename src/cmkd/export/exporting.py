"""`cmkd export`: the network of a run as one file, checked before it is written."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from cmkd import __version__, models
from cmkd.errors import InputError
from cmkd.export.card import MARK, Card
from cmkd.export.checking import TOLERANCE, Parity, Samples, accuracy, parity, samples_of
from cmkd.export.config import ExportConfig
from cmkd.export.formats import SUFFIXES, as_bytes
from cmkd.export.opening import Model, from_bytes, open_run
from cmkd.export.quantizing import quantize
from cmkd.export.timing import latencies
from cmkd.files import at_home, write_atomic


@dataclass
class Exported:
    """What was written, and what was measured.

    Attributes:
        file: The file.
        description: The file beside it, for people.
        card: What the file says of itself.
        form: Its form.
        bytes: Its length.
        parameters: Of the network.
        checked_on: What the images were that it was compared with PyTorch on.
        parity: What came of that, before quantisation.
        latency_ms: By runtime and threads, for one image: `median`, `p10`, `p90`.
        quantized: Of a quantised network how it was calibrated, its `agreement` with the network in PyTorch
            and, where there are labels, `images`, `accuracy_before` and `accuracy`.
    """

    file: Path
    description: Path
    card: Card
    form: str
    bytes: int
    parameters: int
    checked_on: str
    parity: Parity
    latency_ms: dict[str, dict[str, float]]
    quantized: dict[str, Any] = field(default_factory=dict)


def export(config: ExportConfig) -> Exported:
    """Write the network of a finished run as one file, with everything that is needed to use it.

    The bytes are read back and compared with the network in PyTorch before they are written.

    Args:
        config: The options.

    Returns:
        What was written, and what was measured.

    Raises:
        InputError: The run is not finished, the network cannot be exported, the file would replace one that
            is not of this command, or it gives other answers than PyTorch. Nothing is written then.
    """
    run = at_home(config.run)
    plain = Card.of_run(run)
    file = _destination(run, config)
    reference, network = open_run(run)
    samples = samples_of(run, plain, config.part, config.data_root)

    card = plain.with_(pixels=config.fold_preprocessing)
    content = as_bytes(network, card, config.format)
    exported = from_bytes(content, config.format, str(file))
    levels = samples.few()
    found = parity(reference, exported, levels)
    if not found.difference <= TOLERANCE:  # nor if it is NaN
        raise InputError(
            f"{config.format} gives other answers than PyTorch: the logits differ by {found.difference:.1e} "
            f"of the largest ({TOLERANCE:.0e} is allowed) on {found.images} {samples.what}. Nothing was "
            "written; try another --format."
        )
    quantized: dict[str, Any] = {}
    if config.quantize is not None:
        card = card.with_(quantized=config.quantize)
        calibration = samples.calibration()
        content = quantize(content, card, calibration)
        exported = from_bytes(content, config.format, str(file))
        quantized = _compare(reference, exported, samples, calibration)
    result = Exported(
        file=file,
        description=_beside(file),
        card=card,
        form=config.format,
        bytes=len(content),
        parameters=models.count_parameters(network),
        checked_on=f"{samples.what} ({samples.why})" if samples.why else samples.what,
        parity=found,
        latency_ms=latencies(reference, content, config.format, levels[:1]),
        quantized=quantized,
    )
    write_atomic(file, content)
    write_atomic(result.description, json.dumps(_described(result, samples.what), indent=2) + "\n")
    return result


def _destination(run: Path, config: ExportConfig) -> Path:
    suffix = SUFFIXES[config.format]
    name = f"student-{config.quantize}{suffix}" if config.quantize else f"student{suffix}"
    file = at_home(config.out) if config.out else run / "export" / name
    if file.suffix != suffix:
        raise InputError(f"--out {file}: a file of the form {config.format} ends in {suffix}.")
    for path in (file, _beside(file)):
        if path.is_dir():
            raise InputError(f"--out {file}: {path} is a folder; give a file.")
        if path.exists() and MARK.encode() not in path.read_bytes():
            raise InputError(
                f"{path} exists and was not written by `cmkd export`; remove it, or give another --out."
            )
    return file


def _beside(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")


def _compare(reference: Model, exported: Model, samples: Samples, calibration: Any) -> dict[str, Any]:
    """Measure what quantisation has cost."""
    found: dict[str, Any] = {
        "calibration": "dynamic: no images of the run were at hand"
        if calibration is None
        else f"static: ranges measured on {sum(map(len, calibration))} training images",
        "agreement": parity(reference, exported, samples.few()).agreement,
    }
    if samples.part is not None:
        found["accuracy_before"], found["images"] = accuracy(reference, samples.part.batches())
        found["accuracy"], _ = accuracy(exported, samples.part.batches())
    return found


def _described(result: Exported, images: str) -> dict[str, Any]:
    card = asdict(result.card)
    return {
        MARK: result.file.name,
        "format": result.form,
        "network": card.pop("network"),
        **result.card.description(),
        "classes": card.pop("classes"),
        "mean": card.pop("mean"),
        "std": card.pop("std"),
        "trained_on": card.pop("data"),
        "parameters": result.parameters,
        "bytes": result.bytes,
        "sha256_of_weights": card.pop("weights"),
        "quantized": result.quantized or None,
        "compared_with_pytorch": {
            "images": f"{result.parity.images} {images}",
            "largest_difference": result.parity.difference,
            "allowed": TOLERANCE,
            "unit": "of the largest logit, before quantisation",
            "same_class": result.parity.agreement,
        },
        "latency_ms": result.latency_ms,
        "versions": {"cmkd": __version__, "torch": str(torch.__version__)},
    }

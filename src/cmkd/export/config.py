"""Options of `cmkd export` and `cmkd predict`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cmkd.errors import InputError
from cmkd.export.checking import Part
from cmkd.export.formats import SUFFIXES, Format


@dataclass(kw_only=True)
class ExportConfig:
    """Write the network of a finished run as one file to be used elsewhere, tried against PyTorch.

    Args:
        run: Run folder.
        format: Form of the file.
        out: The file; `export/student` in the run folder by default, with the ending of its form. A file of
            the same name and `.json` beside it says for people what its input is and what was measured.
        fold_preprocessing: Normalise within the network: it takes 8-bit pixels (N, 3, H, W) then.
        quantize: Calculate in 8-bit integers (`onnx` only); its accuracy is measured before and after.
        part: Images that the file is tried on: the test set, or the validation part of a run with `--test
            never`, by default; `none` takes random images, and opens no data.
        data_root: Folder with the data set's files, if it is not where the run found it.
    """

    run: str
    format: Format = "onnx"
    out: str | None = None
    fold_preprocessing: bool = False
    quantize: Literal["int8"] | None = None
    part: Part | None = None
    data_root: str | None = None

    def __post_init__(self) -> None:
        if self.format not in SUFFIXES:
            raise InputError(f"--format {self.format} is unknown; give one of {', '.join(SUFFIXES)}.")
        if self.quantize is not None and self.format != "onnx":
            raise InputError(f"--quantize is for --format onnx, not {self.format}.")
        if self.fold_preprocessing and self.format == "safetensors":
            raise InputError(
                "--fold_preprocessing makes normalisation part of the network, and safetensors hold weights "
                "alone; take another --format, or leave it out: mean and std stand in the file."
            )


@dataclass(kw_only=True)
class PredictConfig:
    """Say what is on pictures: classes and their probabilities.

    Args:
        model: Run folder, file that `cmkd export` wrote, or `hf:user/name` on the Hugging Face hub.
        images: Image files.
        top: Number of classes to name.
        json: Print one JSON list instead of lines.
    """

    model: str
    images: list[str] = field(default_factory=list)
    top: int = 5
    json: bool = False

    def __post_init__(self) -> None:
        if self.top < 1:
            raise InputError(f"--top is {self.top}; give at least 1.")

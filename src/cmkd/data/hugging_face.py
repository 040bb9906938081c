"""Images in data sets of the Hugging Face `datasets` library: on the hub, or as parquet files on disk."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmkd.data.base import ImageData
from cmkd.data.decoding import DamagedImage
from cmkd.data.stored import ReadOptions, StoredImages, as_image_data
from cmkd.errors import InputError, unknown_name
from cmkd.files import at_home
from cmkd.libraries import require

logger = logging.getLogger(__name__)

_TEST_PARTS = ("test", "validation", "valid", "val")
_LABEL_NAMES = ("label", "labels", "target", "class")
_MOST_CLASSES = 1_000_000


class TableImages(StoredImages):
    """Images in a column of a table that lies in memory-mapped files.

    Args:
        table: A `datasets.Dataset` with one column, whose images are not decoded.
        rows: Row of each image, int64 `(N,)`.
        targets: Class of each, int64 `(N,)`.
        options: How they are read.
        part: Name of the table's part, for messages.
    """

    def __init__(self, table: Any, rows: Tensor, targets: Tensor, options: ReadOptions, *, part: str) -> None:
        super().__init__(targets, options)
        self._table = table
        self._column = table.column_names[0]
        self._rows = rows
        self._part = part

    def content(self, index: int) -> bytes:
        """Read an image's bytes, out of the table or from the file that it names."""
        cell = self._table[int(self._rows[index])][self._column]
        content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        if content is not None:
            return bytes(content)
        if not path:
            raise DamagedImage("the cell is empty")
        return Path(path).read_bytes()

    def name(self, index: int) -> str:
        """Return part and row."""
        return f"in row {int(self._rows[index])} of {self._part}"

    def subset(self, indices: Tensor) -> TableImages:
        """Return some of the images."""
        return TableImages(
            self._table, self._rows[indices], self.targets[indices], self.options, part=self._part
        )


def open_hugging_face(name: str, options: ReadOptions) -> ImageData:
    """Hugging Face data set: its name on the hub, or a folder of parquet files; NAME:CONFIG picks a part.

    The part `train` is for training. The test part is `test` or, where there is none or its labels are
    withheld (-1), `validation`; with neither, 20 % of every class are set aside, always the same images.

    Args:
        name: Name on the hub or path, then perhaps a colon and a configuration.
        options: How the images are read, and from which columns.

    Returns:
        The data set; normalisation is that of ImageNet.

    Raises:
        InputError: `datasets` is not installed, the set cannot be opened, it has no training part, or its
            columns of images and labels cannot be told.
    """
    parts = _load(name)
    if "train" not in parts and len(parts) == 1:
        parts = {"train": next(iter(parts.values()))}
    if "train" not in parts:
        raise InputError(f"hf:{name} has no part 'train', only {', '.join(parts)}.")
    features = parts["train"].features
    image_column = _image_column(name, features, options.image_column)
    label_column = _label_column(name, features, options.label_column)

    train_labels = _labels(name, parts["train"], label_column)
    classes = _class_names(name, features[label_column], train_labels)
    train: StoredImages = _images("train", parts["train"], image_column, train_labels, classes, options)
    test: StoredImages | None = None
    for part in (part for part in _TEST_PARTS if part in parts):
        labels = _labels(name, parts[part], label_column)
        if not _withheld(labels):
            test = _images(part, parts[part], image_column, labels, classes, options)
            break
    return as_image_data(f"hf:{name}", classes, train, test, options)


def _load(name: str) -> dict[str, Any]:
    """Return the parts of a data set by name."""
    library = require("datasets", "hf")
    path = at_home(name)
    config = None
    if not path.exists() and ":" in name:
        name, _, config = name.rpartition(":")
        path = at_home(name)
    if not path.exists() and (name.startswith((".", "~", os.sep)) or name.count("/") > 1):
        raise InputError(f"no such folder: {path}")
    try:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            loaded = library.load_from_disk(str(path))
        elif path.is_file():
            loaded = library.load_dataset("parquet", data_files=str(path))
        else:
            loaded = library.load_dataset(str(path) if path.exists() else name, name=config)
    except Exception as error:  # the library and what it reads with raise dozens of types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"cannot open hf:{name}{f':{config}' if config else ''}: {reason}") from error
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _image_column(name: str, features: Any, given: str | None) -> str:
    if given is not None:
        return _known_column("image", name, features, given)
    library = require("datasets", "hf")
    typed = [column for column, kind in features.items() if isinstance(kind, library.Image)]
    # Parquet files that other programs wrote do not say that their bytes are images.
    found = typed or [column for column, kind in features.items() if _holds_bytes(kind)]
    return _only_one("image", name, features, found)


def _holds_bytes(kind: Any) -> bool:
    if isinstance(kind, dict):
        return "bytes" in kind
    return getattr(kind, "dtype", None) in ("binary", "large_binary")


def _label_column(name: str, features: Any, given: str | None) -> str:
    if given is not None:
        return _known_column("label", name, features, given)
    library = require("datasets", "hf")
    typed = [column for column, kind in features.items() if isinstance(kind, library.ClassLabel)]
    return _only_one(
        "label", name, features, typed or [column for column in _LABEL_NAMES if column in features]
    )


def _known_column(what: str, name: str, features: Any, given: str) -> str:
    if given not in features:
        raise unknown_name(f"{what} column of hf:{name}", given, features)
    return given


def _only_one(what: str, name: str, features: Any, found: Sequence[str]) -> str:
    if len(found) != 1:
        which = (
            f"{len(found)} {what} columns ({', '.join(found)})" if found else f"no {what} column to be told"
        )
        raise InputError(
            f"hf:{name} has {which}; name one with --{what}_column (its columns: {', '.join(features)})."
        )
    return found[0]


def _labels(name: str, table: Any, column: str) -> Any:
    """Return a part's labels as an Arrow array."""
    if column not in table.column_names:
        listed = ", ".join(table.column_names)
        raise InputError(f"hf:{name} has no column {column!r} in one of its parts, only {listed}.")
    return table.select_columns([column]).with_format("arrow")[:][column]


def _withheld(labels: Any) -> bool:
    """Tell whether a part has no labels: those of a challenge's test part are -1 or empty."""
    return labels.null_count == len(labels) or set(labels.unique().to_pylist()) <= {-1, None}


def _class_names(name: str, kind: Any, labels: Any) -> tuple[str, ...]:
    if isinstance(kind, require("datasets", "hf").ClassLabel):
        return tuple(kind.names)
    values = [value for value in labels.unique().to_pylist() if value is not None]
    if all(isinstance(value, str) for value in values):
        return tuple(sorted(values))
    if all(isinstance(value, int) for value in values) and max(values) < _MOST_CLASSES:
        return tuple(str(label) for label in range(int(max(values)) + 1))
    raise InputError(
        f"hf:{name} has labels such as {values[0]!r}; they have to be names, or numbers that count the "
        "classes from 0. Another column may have them: --label_column."
    )


def _images(
    part: str, table: Any, column: str, labels: Any, classes: tuple[str, ...], options: ReadOptions
) -> TableImages:
    """Return the images of a part; rows without a label are an error, or left out."""
    import pyarrow
    from pyarrow import compute

    if pyarrow.types.is_string(labels.type) or pyarrow.types.is_large_string(labels.type):
        labels = compute.index_in(labels, value_set=pyarrow.array(classes, type=labels.type))
    targets = labels.cast("int64").fill_null(-1).to_numpy()
    missing = np.flatnonzero(targets < 0)
    if len(missing):
        found = f"{len(missing)} rows of the part {part!r} have no label of the training part"
        if options.bad_images == "fail":
            raise InputError(
                f"{found}, the first is row {missing[0]}. Remove them, or take --bad_images skip."
            )
        logger.warning("left out: %s.", found)
    library = require("datasets", "hf")
    table = table.select_columns([column])
    if isinstance(table.features[column], library.Image):
        table = table.cast_column(column, library.Image(decode=False))
    rows = torch.from_numpy(np.flatnonzero(targets >= 0))
    return TableImages(table, rows, torch.from_numpy(targets.copy())[rows], options, part=part)


DATASETS: dict[str, Callable[..., ImageData]] = {"hf:": open_hugging_face}

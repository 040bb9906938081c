"""`cmkd predict`: classes and probabilities of pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cmkd.data.decoding import DamagedImage
from cmkd.data.pixels import picture_levels
from cmkd.errors import InputError
from cmkd.export.card import Card
from cmkd.export.opening import Model, open_model
from cmkd.files import at_home

_BATCH = 32


@dataclass(frozen=True)
class Prediction:
    """What a network says of a picture.

    Attributes:
        image: The picture's file.
        classes: Names of the likeliest classes and their probabilities, the likeliest first.
        error: Why the file could not be read, else None.
    """

    image: str
    classes: tuple[tuple[str, float], ...] = ()
    error: str | None = None


def predict(model: str | Path | Model, images: Sequence[str | Path], *, top: int = 5) -> Iterator[Prediction]:
    """Ask a network what is on pictures.

    A picture is treated as the images were on which the network was judged in training. A network that
    normalises by itself takes whole grey levels, which a picture that had to be scaled is rounded to.

    Args:
        model: Run folder, exported file, or what `open_model` made of either.
        images: Image files.
        top: Number of classes to name.

    Yields:
        One prediction for each picture, in their order. A file that cannot be read does not end the others.

    Raises:
        InputError: The network cannot be opened.
    """
    opened = model if isinstance(model, Model) else open_model(model)
    for begin in range(0, len(images), _BATCH):
        read = [(str(image), _read(Path(image), opened.card)) for image in images[begin : begin + _BATCH]]
        levels = [each for _, each in read if isinstance(each, Tensor)]
        answers = iter(_named(opened, torch.stack(levels), top) if levels else ())
        for image, each in read:
            yield (
                Prediction(image, next(answers))
                if isinstance(each, Tensor)
                else Prediction(image, error=each)
            )


def _read(image: Path, card: Card) -> Tensor | str:
    """Return the grey levels of a picture, or what is wrong with it."""
    try:
        content = at_home(image).read_bytes()
        return picture_levels(content, size=card.image_size, framing=card.framing, channels=card.channels)
    except DamagedImage as error:
        return str(error)
    except OSError as error:
        return os.strerror(error.errno or 0)


def _named(model: Model, levels: Tensor, top: int) -> list[tuple[tuple[str, float], ...]]:
    names = model.card.classes
    try:
        found = model(levels).float().softmax(1).topk(min(top, len(names)))
    except RuntimeError as error:
        raise InputError(f"the network failed on a picture: {str(error).splitlines()[0]}") from error
    return [
        tuple((names[index], probability) for probability, index in zip(*row, strict=True))
        for row in zip(found.values.tolist(), found.indices.tolist(), strict=True)
    ]

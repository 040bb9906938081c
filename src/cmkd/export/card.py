"""What a network needs to be used: its classes, and what its input is. Every exported file carries it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from cmkd.data.pixels import Framing, scale_and_shift
from cmkd.errors import InputError
from cmkd.files import public_name
from cmkd.teachers.opening import run_card

#: Name under which the files carry the card, and by which they are known to be ours.
MARK = "cmkd_export"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is to be known of a network.

    Attributes:
        network: Its name, as `cmkd.models.build` takes it.
        classes: Names of its classes, in the order of its logits.
        mean: Mean that its images are normalised with, for pixels in [0, 1].
        std: Standard deviation that goes with it.
        image_size: Side of its images in pixels.
        channels: 1 if it has learnt from grey images, which it gets as three equal channels.
        framing: Whether it gets the `whole` of an image, or the `centre` (see `cmkd.data.pixels`).
        data: Data set that it has learnt from, as `public_name` has it.
        weights: SHA-256 of the run's file of weights.
        pixels: Whether it normalises by itself: its input are 8-bit pixels then.
        quantized: `int8` if its arithmetic is.
    """

    network: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    channels: int
    framing: Framing
    data: str
    weights: str
    pixels: bool = False
    quantized: Literal["int8"] | None = None

    @classmethod
    def of_run(cls, run: Path) -> Card:
        """Return the card of a finished run, or raise `InputError`."""
        card = run_card(run)
        if "image_size" not in card:
            raise InputError(f"{run / 'model.json'} lacks image_size; it was not written by cmkd train.")
        file = run / "student.safetensors"
        if not file.is_file():
            raise InputError(f"{run} has no student.safetensors: its weights are not there. Copy them along.")
        mean, std, data = tuple(card["mean"]), tuple(card["std"]), str(card.get("data", ""))
        # Runs of earlier versions say neither: their only grey set has one mean for all channels, and
        # what they read from disk has a colon in its name.
        grey = len(set(mean)) == len(set(std)) == 1
        return cls(
            network=card["network"],
            classes=tuple(card.get("classes") or map(str, range(card["num_classes"]))),
            mean=mean,
            std=std,
            image_size=card["image_size"],
            channels=card.get("channels", 1 if grey else 3),
            framing=card.get("framing", "centre" if ":" in data else "whole"),
            data=public_name(data),
            weights=hashlib.sha256(file.read_bytes()).hexdigest(),
        )

    @classmethod
    def from_text(cls, text: str, where: str) -> Card:
        """Return the card that an exported file carries.

        Args:
            text: What `as_text` gave.
            where: The file, for messages.

        Raises:
            InputError: The text is something else, or of a later version of this package.
        """
        try:
            content = json.loads(text)
            version = content.pop(MARK)
            lists = {key: tuple(content[key]) for key in ("classes", "mean", "std")}
            if version == VERSION:
                return cls(**{**content, **lists})
        except (ValueError, TypeError, KeyError, AttributeError):
            raise InputError(f"{where} was not written by `cmkd export`: it has no card.") from None
        raise InputError(f"{where} was exported by a later version of cmkd (form {version}); update cmkd.")

    def as_text(self) -> str:
        """Return the card as JSON in one line."""
        return json.dumps({MARK: VERSION, **asdict(self)})

    def with_(self, **changes: Any) -> Card:
        """Return a card that differs in some attributes."""
        return replace(self, **changes)

    def to_input(self, levels: Tensor) -> Tensor:
        """Turn grey levels into the network's input.

        Args:
            levels: float32 `(N, 3, H, W)`, from 0 to 255.

        Returns:
            Of the same shape: normalised, or uint8 for a network that normalises by itself.
        """
        if self.pixels:
            return levels.round().clamp(0, 255).byte()
        scale, shift = scale_and_shift(self.mean, self.std)
        return levels * scale + shift

    def description(self) -> dict[str, Any]:
        """Return what stands in the file for people: how an input is made and what comes out."""
        side = self.image_size
        framed = {
            "whole": f"the whole picture, scaled to {side} x {side}",
            "centre": f"the shorter side scaled to 8/7 of {side}, then the middle {side} x {side} cut out",
        }[self.framing]
        values = (
            "uint8, 0 to 255; the network normalises them"
            if self.pixels
            else f"float32, (pixel / 255 - mean) / std with mean {_list(self.mean)} and std {_list(self.std)}"
        )
        colours = "grey (luma), the same in all three channels" if self.channels == 1 else "red, green, blue"
        return {
            "input": {
                "name": "image",
                "shape": ["N", 3, side, side],
                "dtype": "uint8" if self.pixels else "float32",
                "picture": f"{framed}; bilinear with antialiasing",
                "channels": colours,
                "values": values,
            },
            "output": {
                "name": "logits",
                "shape": ["N", len(self.classes)],
                "meaning": "softmax gives the probabilities of the classes, in the order of `classes`",
            },
        }


def _list(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)

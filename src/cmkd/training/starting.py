"""The network that a run trains, with the weights that it starts from."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from torch import nn

from cmkd import models
from cmkd.data import ImageData
from cmkd.errors import InputError
from cmkd.teachers.opening import run_card, run_folder

logger = logging.getLogger(__name__)


def open_start(name: str, weights: str | None, data: ImageData) -> tuple[nn.Module, ImageData]:
    """Build the network to train.

    Args:
        name: Its name, as `cmkd.models.build` has it.
        weights: What it starts from: a run folder, a file or `"pretrained"`; None for random weights.
        data: The data set that it will see.

    Returns:
        The network, on the CPU; and the data set, normalised as the weights expect it where that is known.

    Raises:
        InputError: The network cannot be built, its weights cannot be had or are another network's, or it
            does not map these images to their classes.
    """
    pretrained = weights == "pretrained"
    network = models.build(name, data.num_classes, pretrained=pretrained)
    models.check_logits(network, f"network {name}", num_classes=data.num_classes, image_size=data.image_size)
    statistics = models.input_statistics(network) if pretrained else None
    if weights is not None and not pretrained:
        file, run = Path(weights), run_folder(weights)
        if run.is_dir():
            card = run_card(run)
            file, statistics = run / "student.safetensors", (tuple(card["mean"]), tuple(card["std"]))
        _load(network, name, file, data)
    return network, data if statistics is None else replace(data, mean=statistics[0], std=statistics[1])


def _load(network: nn.Module, name: str, file: Path, data: ImageData) -> None:
    try:
        classifier = models.feature_layers(network, image_size=data.image_size).classifier
    except InputError:
        classifier = None  # not to be told from the other layers, so that all have to be in the file
    if not models.load_weights(network, file, classifier=classifier):
        logger.warning(
            "%s has no classifier for the %d classes of %s: that of %s is new and knows nothing yet",
            file,
            data.num_classes,
            data.name,
            name,
        )

"""The network that a run trains, with the weights that it starts from."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import nn

from cmkd import models
from cmkd.data import ImageData
from cmkd.errors import InputError
from cmkd.teachers.opening import run_card, run_folder
from cmkd.training.config import DistillConfig, RunConfig, TrainConfig
from cmkd.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


def open_start(config: TrainConfig | DistillConfig, data: ImageData) -> tuple[nn.Module, ImageData]:
    """Build the network to train.

    Args:
        config: The run's options.
        data: The data set that it will see.

    Returns:
        The network, on the CPU; and the data set, normalised as the network expects it where that is known.

    Raises:
        InputError: The network cannot be built, its weights cannot be had or are another network's, or it
            does not map these images to their classes.
    """
    name, weights = config.network
    network = models.build(name, data.num_classes, pretrained=weights == "pretrained")
    models.check_logits(network, f"network {name}", num_classes=data.num_classes, image_size=data.image_size)
    statistics = models.input_statistics(network)
    if weights is not None and weights != "pretrained":
        file, classes, run = Path(weights), data.classes, run_folder(weights)
        if run.is_dir():
            card = run_card(run)
            file, classes = run / "student.safetensors", tuple(card.get("classes", classes))
            statistics = card["mean"], card["std"]
            _warn_of_seen_images(run, config)
        _load(network, name, file, data, same_classes=classes == data.classes)
    return network, data if statistics is None else data.normalised(*statistics)


def _load(network: nn.Module, name: str, file: Path, data: ImageData, *, same_classes: bool) -> None:
    try:
        classifier = models.feature_layers(network, image_size=data.image_size).classifier
    except InputError:
        classifier = None  # not to be told from the other layers, so that all have to be in the file
    if not models.load_weights(network, file, classifier=classifier, same_classes=same_classes):
        logger.warning(
            "%s has no classifier for the %d classes of %s: that of %s is new and knows nothing yet",
            file,
            data.num_classes,
            data.name,
            name,
        )


def _warn_of_seen_images(run: Path, config: RunConfig) -> None:
    """Say so if a run was trained on images that are to be held out now."""
    folder = RunFolder(run)
    if not config.validation or not (run / "config.yaml").exists():
        return
    theirs = folder.read_config()
    if theirs["data"] == config.data and (theirs["validation"], theirs["seed"]) != (
        config.validation,
        config.seed,
    ):
        logger.warning(
            "%s was trained on images that this run holds out: the validation accuracy will be too high; "
            "--validation %s --seed %s hold out those that it has not seen",
            run,
            theirs["validation"],
            theirs["seed"],
        )

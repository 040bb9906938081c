"""Networks by name: this package's own, timm's, torchvision's and the user's."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from cmkd.errors import InputError, unknown_name
from cmkd.models.families import available, find
from cmkd.models.reuse import end_in_projection, parse_end

_FORMS = "Other networks: timm:NAME, torchvision:NAME or package.module:factory."
_OFFLINE = (
    "Without a network, download the weights elsewhere and pass the file as this network's checkpoint, "
    "or put it into the cache that the message names."
)

logger = logging.getLogger(__name__)

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def build(name: str, num_classes: int, *, pretrained: bool = False) -> nn.Module:
    """Build a network by name.

    Args:
        name: A name of this package (`cmkd.models.families.find` says how it may be spelled), `timm:NAME`,
            `torchvision:NAME`, or `package.module:factory`, where
            `factory(num_classes=...)` returns an `nn.Module`. For the last form the current directory counts
            as importable. `simkd:256x8:NAME` is what `reuse_classifier` makes of the network `NAME`.
        num_classes: Length of a row of logits, at least 2.
        pretrained: Load the published weights (timm and torchvision only). When their number of classes is
            another one, the classifier is new and random.

    Returns:
        The network, on the CPU in training mode, from normalised images `(N, 3, H, W)` to logits
        `(N, num_classes)`.

    Raises:
        InputError: If the name is unknown, its package is missing, the factory fails or returns something
            else, or the pretrained weights do not exist or cannot be fetched.
    """
    if num_classes < 2:
        raise InputError(f"num_classes is {num_classes}; a classifier needs at least 2 classes.")
    source, colon, rest = name.partition(":")
    if not colon:
        return _build_own(name, num_classes, pretrained)
    if source == "timm":
        return _build_timm(rest, num_classes, pretrained)
    if source == "torchvision":
        return _build_torchvision(rest, num_classes, pretrained)
    if source == "simkd":
        return _build_with_projection(rest, num_classes, pretrained)
    return _build_from_path(name, num_classes, pretrained)


def input_statistics(model: nn.Module) -> Statistics | None:
    """Return the mean and the standard deviation with which a network expects its images normalised.

    They are a property of the weights, not of the architecture: the same timm network trained from scratch
    expects whatever its training used. So they are known only for what `build` loaded with `pretrained=True`,
    and for a network whose own code sets the attribute `input_statistics`.

    Args:
        model: Any network.

    Returns:
        `(mean, std)`, one number per channel for images in [0, 1], or None if the network does not say.
    """
    found = getattr(model, "input_statistics", None)
    if found is None:
        return None
    mean, std = found
    return tuple(map(float, mean)), tuple(map(float, std))


def _build_own(name: str, num_classes: int, pretrained: bool) -> nn.Module:
    factory = find(name)
    if factory is None:
        raise unknown_name("model", name, available(), hint=_FORMS)
    if pretrained:
        raise InputError(f"there are no published weights for {name!r}; pass your own as its checkpoint.")
    return factory(num_classes)


def _build_timm(name: str, num_classes: int, pretrained: bool) -> nn.Module:
    timm = _import_package("timm")
    on_a_hub = ":" in name  # as in hf-hub:owner/name, timm's notation for a network described elsewhere
    if not on_a_hub and not timm.is_model(name):
        raise unknown_name("timm model", name, timm.list_models())
    if pretrained and not on_a_hub and not timm.models.is_model_pretrained(name):
        raise InputError(f"timm has no weights for {name!r}; see timm.list_models(pretrained=True).")
    with _fetching(f"timm:{name}", fetches=pretrained or on_a_hub):
        model = timm.create_model(name, pretrained=pretrained, num_classes=num_classes)
    if pretrained:
        config = model.pretrained_cfg
        if config["num_classes"] != num_classes:
            _mark_new_classifier(model, f"timm:{name}", config["num_classes"], num_classes)
        model.input_statistics = (tuple(config["mean"]), tuple(config["std"]))
    return model


def _build_torchvision(name: str, num_classes: int, pretrained: bool) -> nn.Module:
    torchvision = _import_package("torchvision")
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise unknown_name("torchvision model", name, known)
    # Their auxiliary heads make the output a tuple during training; every network here returns logits.
    has_auxiliary_heads = name in ("googlenet", "inception_v3")
    options: dict[str, Any] = {}
    if not pretrained:
        if has_auxiliary_heads:
            options = {"aux_logits": False, "init_weights": True}
        return torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
    if has_auxiliary_heads:
        options = {"transform_input": False}
    weights = torchvision.models.get_model_weights(name).DEFAULT
    with _fetching(f"torchvision:{name}", fetches=True):
        model = torchvision.models.get_model(name, weights=weights, progress=False, **options)
    if name == "inception_v3":  # whose weights torchvision loads into a network with that head alone
        model.aux_logits, model.AuxLogits = False, None
    published = len(weights.meta["categories"])
    if published != num_classes:
        _renew_classifier(model, published, num_classes)
        _mark_new_classifier(model, f"torchvision:{name}", published, num_classes)
    if has_auxiliary_heads:
        # By default they bring ImageNet's normalisation to this one themselves, by a switch that is not among
        # their weights: whoever loads those into a new network would miss it.
        model.input_statistics = ((0.5,) * 3, (0.5,) * 3)
    else:
        transform = weights.transforms()
        model.input_statistics = (tuple(transform.mean), tuple(transform.std))
    return model


def _renew_classifier(model: nn.Module, published: int, num_classes: int) -> None:
    # torchvision refuses a class count other than that of the weights, and each family names its head anew.
    for path, layer in reversed(list(model.named_modules())):
        new: nn.Module
        if isinstance(layer, nn.Linear) and layer.out_features == published:
            new = nn.Linear(layer.in_features, num_classes, bias=layer.bias is not None)
        elif isinstance(layer, nn.Conv2d) and layer.out_channels == published:
            new = nn.Conv2d(layer.in_channels, num_classes, layer.kernel_size)  # type: ignore[arg-type]
        else:
            continue
        parent, _, attribute = path.rpartition(".")
        setattr(model.get_submodule(parent), attribute, new)
        return
    raise InputError(f"found no classifier with {published} outputs to replace by one with {num_classes}.")


def has_new_classifier(model: nn.Module) -> bool:
    """Whether `build` loaded weights but put a random classifier on top, for another number of classes."""
    return getattr(model, "_cmkd_new_classifier", False)


def _mark_new_classifier(model: nn.Module, name: str, published: int, num_classes: int) -> None:
    model._cmkd_new_classifier = True  # type: ignore[assignment]
    logger.warning(
        "the weights of %s are for %d classes: its classifier for %d classes is new and knows nothing yet",
        name,
        published,
        num_classes,
    )


def _build_with_projection(rest: str, num_classes: int, pretrained: bool) -> nn.Module:
    end = parse_end(rest)
    if end is None or pretrained:
        raise InputError(
            f"'simkd:{rest}' names a network that SimKD has trained: simkd:WIDTHxSIDE:NAME, with the weights "
            "of its run."
        )
    width, side, image_size, name = end
    network = build(name, num_classes)
    end_in_projection(network, width, side, image_size=image_size)
    return network


def _build_from_path(path: str, num_classes: int, pretrained: bool) -> nn.Module:
    module_name, _, attribute = path.partition(":")
    if pretrained:
        raise InputError(f"{path!r} brings its own weights or none; pass a checkpoint instead of pretrained.")
    try:
        with _current_directory_importable():
            module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may fail in any way while it is imported
        raise InputError(
            f"cannot import {module_name!r} for the model {path!r}: {type(error).__name__}: {error}. {_FORMS}"
        ) from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        public = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        raise unknown_name(f"function of {module_name!r}", attribute, public)
    try:
        model = factory(num_classes=num_classes)
    except Exception as error:  # likewise
        raise InputError(
            f"{path}(num_classes={num_classes}) failed: {type(error).__name__}: {error}. "
            "A factory takes num_classes and returns an nn.Module."
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{path} returned a {type(model).__name__}; a factory returns an nn.Module.")
    return model


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    directory = str(Path.cwd())
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        sys.path.remove(directory)


@contextmanager
def _fetching(name: str, *, fetches: bool) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # URLError, HfHubHTTPError, OSError, ... depending on version and source
        remedy = _OFFLINE if fetches else "Choose another network."
        raise InputError(f"cannot build {name!r}: {type(error).__name__}: {error}. {remedy}") from error


def _import_package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"{name} is not installed; run: pip install {name}") from error

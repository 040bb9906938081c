"""The layers of a network that feature distillation looks at, found by name without changing the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from cmkd.errors import InputError
from cmkd.models.calls import Call, Record, record_calls

INPUT = ":input"
"""Suffix of a layer's name that stands for what goes into the module instead of what comes out."""

PREACTIVATION = ":preactivation"
"""Suffix that stands for what goes into the activation module that the layer ends with."""

CHANNELS_LAST = ":channels_last"
"""Suffix of a layer that returns `(N, H, W, C)`."""

_BY_HAND = "Name the layers by hand; network.named_modules() lists their names."
_QUARTER = 4  # networks made for 224 pixels: what comes before a quarter of the resolution is their stem


@dataclass(frozen=True)
class FeatureLayers:
    """Names of modules of one network, as `network.get_submodule` takes them.

    Attributes:
        stages: Modules whose outputs are the ends of the stages, from early to late, the stem left out.
            The outputs are `(N, C, H, W)`, or tokens `(N, T, D)` for a transformer. One that keeps its
            channels last, `(N, H, W, C)` as Swin does, has the suffix `":channels_last"` on these names, and
            `Capture` moves the channels. They are what the block returns, after its last activation where it
            ends with one. Nothing that follows overwrites them in our own networks; where somebody else's
            network does (an in-place ReLU after the module), the tensor holds the activated values.
        pooled: Module whose flattened output is the embedding `(N, D)`, the input of the classifier. Where
            no module returns it (pooling by a bare function) it is the classifier's name with the suffix
            `":input"`, and stands for that module's input.
        classifier: The last linear layer, from the embedding to the logits.
        preactivations: The same stages before their last activation; by default what goes into the
            activation module that a stage ends with.
        projector: Module that brings the last map to the width of a teacher, in a network that
            `reuse_classifier` has changed; else empty.
    """

    stages: tuple[str, ...]
    pooled: str
    classifier: str
    preactivations: tuple[str, ...] = ()
    projector: str = ""

    def __post_init__(self) -> None:
        """Fill in the default."""
        if not self.preactivations:
            object.__setattr__(self, "preactivations", tuple(name + PREACTIVATION for name in self.stages))

    @property
    def before_pooling(self) -> str:
        """What goes into the pooling: the last map, or the embedding where no module pools."""
        return self.pooled if self.pooled.endswith(INPUT) else self.pooled + INPUT


def feature_layers(network: nn.Module, *, image_size: int | None = None) -> FeatureLayers:
    """Find the stages, the embedding and the classifier of a network.

    The rule, by kind of network:

    - This package's own, and any network whose class has the attributes `feature_layers`, `pooled_layer` and
      `classifier_layer`: those attributes; and `preactivation_layers`, if it has them.
    - timm's: the stages are the modules of its `feature_info` at a quarter of the resolution or less, one for
      each resolution; of a transformer that keeps one resolution, the blocks that end its quarters. The
      classifier is that of `get_classifier()`, and the embedding is found by running an image.
    - All others: one image is run. A stage ends with the last output before the next call of a module that
      halves the resolution; modules that reduce it more than once are looked into. Of torchvision's networks
      only the ends at a quarter of the resolution or less count, as with timm's. A network that reduces it
      less than twice but has a row of blocks from tokens to tokens has the ends of that row's quarters as its
      stages. The classifier is the linear layer that was called last; the embedding is the last output that
      equals the classifier's input, dropout aside.

    Args:
        network: From images `(N, 3, H, W)` to logits `(N, classes)`; it is left unchanged. Pass the network
            itself, not a wrapper around it, because the names are those of the module that is passed.
        image_size: Side in pixels of the image that is run; by default what timm states, 224 for
            torchvision's networks, and else 32. It is not needed for this package's own networks.

    Returns:
        The names.

    Raises:
        InputError: The network fails on the image, or the rule finds no stages or no classifier.

    Example:
        >>> from cmkd.models import build
        >>> layers = feature_layers(build("resnet8", 10))
        >>> layers.stages, layers.pooled, layers.classifier
        (('layer1', 'layer2', 'layer3'), 'avgpool', 'fc')
    """
    stated = getattr(network, "feature_layers", None)
    if isinstance(stated, tuple):
        own: Any = network
        before, projector = getattr(own, "preactivation_layers", ()), getattr(own, "projector_layer", "")
        return FeatureLayers(stated, own.pooled_layer, own.classifier_layer, before, projector)
    of_torchvision = _is_of_torchvision(network)
    size = image_size or usual_image_size(network)
    record = record_calls(network, size)
    stages = _timm_stages(network, record) or _stages(
        record, limit=size // _QUARTER if of_torchvision else size
    )
    if not stages:
        raise InputError(
            f"found no stages in {type(network).__name__}: nothing reduces the resolution. {_BY_HAND}"
        )
    classifier = _timm_classifier(network, record) or _classifier(record)
    if classifier is None:
        raise InputError(
            f"found no linear layer in {type(network).__name__} that returns the logits. {_BY_HAND}"
        )
    return FeatureLayers(_with_layout(stages, record), _pooled(record, classifier), classifier.name)


def usual_image_size(network: nn.Module) -> int:
    """Return the side in pixels that timm states, 224 for torchvision's networks, and else 32."""
    config = getattr(network, "default_cfg", None) or {}
    size: int = config.get("input_size", (0, 0, 224 if _is_of_torchvision(network) else 32))[-1]
    return size


def _is_of_torchvision(network: nn.Module) -> bool:
    return type(network).__module__.startswith("torchvision.")


def _with_layout(stages: tuple[str, ...], record: Record) -> tuple[str, ...]:
    # The image is square, so that the two equal sides of a map tell the channels. With as many channels as
    # pixels a side nothing does, but a network has its channels in one place throughout.
    shapes = {call.name: call.shape for call in record.within()}
    maps = {name: shape for name in stages if (shape := shapes[name]) is not None and len(shape) == 4}
    if not any(height == width != channels for _, height, width, channels in maps.values()):
        return stages
    return tuple(name + CHANNELS_LAST if name in maps else name for name in stages)


def _timm_stages(network: nn.Module, record: Record) -> tuple[str, ...]:
    info: Any = getattr(network, "feature_info", None) or []
    outputs = {call.name for call in record.within() if call.shape is not None}
    entries = [entry for entry in getattr(info, "info", info) if entry["module"] in outputs]
    if len(entries) > 1 and len({entry["reduction"] for entry in entries}) == 1:
        return _quarters([entry["module"] for entry in entries])
    deepest = {entry["reduction"]: entry["module"] for entry in entries}
    return tuple(module for reduction, module in deepest.items() if reduction >= _QUARTER)


def _timm_classifier(network: nn.Module, record: Record) -> Call | None:
    get_classifier: Any = getattr(network, "get_classifier", None)
    head = get_classifier() if callable(get_classifier) else None
    head = head[0] if isinstance(head, tuple) else head  # several heads, whose logits are averaged
    if not isinstance(head, nn.Linear | nn.Conv2d):
        return None
    return next((call for call in record.within() if call.module is head), None)


def _stages(record: Record, *, limit: int) -> tuple[str, ...]:
    by_size: dict[int, str] = {}
    _walk(record.root, record, by_size)
    stages = tuple(name for side, name in by_size.items() if side <= limit)
    if len(stages) > 1:
        return stages
    return _quarters(_longest_row(record)) or stages


def _walk(parent: Call, record: Record, ends: dict[int, str]) -> None:
    # `ends` holds the last output of each size. Its keys only fall: that a block begins at the size of the
    # stage before it (a 1x1 convolution in front of a strided one) is not seen, because what halves the size
    # only once is not looked into.
    for call in parent.calls:
        before, side = min(ends, default=None), call.side
        looked_into = bool(call.calls) and (before is None or side is None or before > 3 * side)
        if looked_into:
            _walk(call, record, ends)
        if side is None or side > min(ends, default=side) or not record.is_called_once(call):
            continue
        # The output of a Sequential is that of its last module, which says better where the stage ends.
        is_known = side in ends and looked_into and isinstance(call.module, nn.Sequential)
        if not is_known and not _is_aside(call, side in ends):
            ends[side] = call.name


def _is_aside(call: Call, same_size: bool) -> bool:
    # Dropout, and a pooling to a size that the map already has at this size of image.
    fixed = isinstance(call.module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d)
    return _is_dropout(call) or (fixed and same_size)


def _is_dropout(call: Call) -> bool:
    return "drop" in type(call.module).__name__.lower()


def _longest_row(record: Record) -> list[str]:
    rows: list[list[str]] = [[]]
    for parent in record.ended:
        blocks = [call for call in parent.calls if call.calls and record.is_called_once(call)]
        shapes = dict.fromkeys(
            call.shape for call in blocks if call.shape is not None and len(call.shape) == 3
        )
        rows += [[call.name for call in blocks if call.shape == shape] for shape in shapes]
    return max(rows, key=len)


def _quarters(names: Sequence[str]) -> tuple[str, ...]:
    if len(names) <= 4:
        return tuple(names)
    return tuple(names[quarter * len(names) // 4 - 1] for quarter in (1, 2, 3, 4))


def _classifier(record: Record) -> Call | None:
    linear = [call for call in record.within() if isinstance(call.module, nn.Linear)]
    return linear[-1] if linear and linear[-1].shape == record.root.shape else None


def _pooled(record: Record, classifier: Call) -> str:
    embedding = classifier.values[0]
    before = list(record.within())[: record.ended.index(classifier)]
    for call in reversed(before):
        output = call.values[1]
        # Dropout returns what it is given in eval mode only.
        if output is None or embedding is None or _is_dropout(call) or not record.is_called_once(call):
            continue
        if output.shape == embedding.shape and bool((output == embedding).all()):
            return call.name
    return classifier.name + INPUT

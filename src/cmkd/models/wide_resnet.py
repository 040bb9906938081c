"""Wide residual networks (Zagoruyko and Komodakis 2016, arXiv 1605.07146) of any depth and width.

`wrn_40_2` is the WRN-40-2 of the tables: depth 40, twice as wide as a ResNet. State-dict keys are those of
RepDistiller and mdistiller.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from cmkd.errors import InputError
from cmkd.models.initial import initialize


class Block(nn.Module):
    """Pre-activation block: batch norm and ReLU before each of two 3x3 convolutions, and a shortcut."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.convShortcut: nn.Module | None = None  # the published key
        if in_width != width:
            self.convShortcut = nn.Conv2d(in_width, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(N, in_width, H, W)` to `(N, width, H / stride, W / stride)`."""
        active = self.relu(self.bn1(x))
        out = self.conv2(self.relu(self.bn2(self.conv1(active))))
        return out + (x if self.convShortcut is None else self.convShortcut(active))


class WideResNet(nn.Module):
    """Wide residual network of depth 6n + 4 without dropout.

    The ends of its stages are sums that no activation has followed yet, as everywhere in the literature. What
    stands for the features before the activation is each sum after the batch norm that comes next, as in the
    published codes of OFD and ReviewKD.

    Args:
        num_classes: Length of a row of logits.
        depth: Number of weighted layers, 6n + 4.
        width: Widening factor k; the stages have 16k, 32k and 64k channels.

    Raises:
        InputError: There is no network of this depth or width.
    """

    feature_layers: ClassVar = ("block1", "block2", "block3")
    preactivation_layers: ClassVar = ("block2.layer.0.bn1", "block3.layer.0.bn1", "bn1")
    pooled_layer: ClassVar = "avgpool"
    classifier_layer: ClassVar = "fc"

    def __init__(self, num_classes: int, *, depth: int, width: int) -> None:
        super().__init__()
        if depth < 10 or depth % 6 != 4:
            raise InputError(f"a wide ResNet has depth 6n + 4 (10, 16, 22, 28, 40, ...), not {depth}.")
        if width < 1:
            raise InputError(f"the widening factor of a wide ResNet is at least 1, not {width}.")
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = _stage(16, 16 * width, blocks, stride=1)
        self.block2 = _stage(16 * width, 32 * width, blocks, stride=2)
        self.block3 = _stage(32 * width, 64 * width, blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64 * width, num_classes)
        initialize(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images `(N, 3, H, W)` of any size to logits `(N, num_classes)`."""
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(self.avgpool(self.relu(self.bn1(x))).flatten(1))


def _stage(in_width: int, width: int, blocks: int, *, stride: int) -> nn.Sequential:
    rest = (Block(width, width, 1) for _ in range(blocks - 1))
    layer = nn.Sequential(Block(in_width, width, stride), *rest)
    return nn.Sequential(OrderedDict(layer=layer))  # one level more, as in the published keys


def by_name(name: str) -> Callable[[int], nn.Module] | None:
    """Return the network that a name such as `"wrn_28_10"` spells, or None for the name of something else."""
    found = re.fullmatch(r"wrn_?(\d+)_(\d+)", name)
    return partial(WideResNet, depth=int(found[1]), width=int(found[2])) if found else None


MODELS: dict[str, Callable[[int], nn.Module]] = {
    f"wrn_{depth}_{width}": partial(WideResNet, depth=depth, width=width)
    for depth, width in ((16, 1), (16, 2), (28, 2), (28, 4), (40, 1), (40, 2))
}
"""The networks of the tables by name; each is called with the number of classes."""

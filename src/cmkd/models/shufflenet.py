"""ShuffleNet V1 and V2 for small images (arXiv 1707.01083, 1807.11164) as the distillation tables use them.

Against the papers: a 1x1 convolution of stride 1 and no pooling as the stem. State-dict keys are those of
RepDistiller and mdistiller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_STEM = 24


def _shuffle(x: Tensor, groups: int) -> Tensor:
    n, channels, height, width = x.shape
    return x.reshape(n, groups, channels // groups, height, width).transpose(1, 2).reshape(x.shape)


class GroupedUnit(nn.Module):
    """ShuffleNet V1's unit (figure 2 of the paper): grouped 1x1, shuffle, 3x3 per channel, grouped 1x1.

    With stride 2 the pooled input is appended to the output instead of added, so that the unit itself makes
    `width - in_width` channels.
    """

    def __init__(self, in_width: int, width: int, *, stride: int, groups: int) -> None:
        super().__init__()
        made = width - in_width if stride == 2 else width
        inner = made // 4
        self.stride = stride
        self.groups = 1 if in_width == _STEM else groups  # too few channels come from the stem to group them
        self.conv1 = nn.Conv2d(in_width, inner, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, made, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(made)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(N, in_width, H, W)` to `(N, width, H / stride, W / stride)`."""
        out = _shuffle(self.relu(self.bn1(self.conv1(x))), self.groups)
        # The paper's figure has no ReLU after the middle convolution; the published codes do.
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.stride == 2:
            return self.relu(torch.cat([out, F.avg_pool2d(x, 3, stride=2, padding=1)], 1))
        return self.relu(out + x)


class ShuffleNetV1(nn.Module):
    """ShuffleNet with three groups and 240, 480 and 960 channels (table 1 of arXiv 1707.01083).

    Args:
        num_classes: Length of a row of logits.
    """

    feature_layers: ClassVar = ("layer1", "layer2", "layer3")
    pooled_layer: ClassVar = "avgpool"
    classifier_layer: ClassVar = "linear"

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, _STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _grouped_stage(_STEM, 240, units=4)
        self.layer2 = _grouped_stage(240, 480, units=8)
        self.layer3 = _grouped_stage(480, 960, units=4)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(960, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images `(N, 3, H, W)` of any size to logits `(N, num_classes)`."""
        x = self.relu(self.bn1(self.conv1(x)))
        return self.linear(self.avgpool(self.layer3(self.layer2(self.layer1(x)))).flatten(1))


def _grouped_stage(in_width: int, width: int, *, units: int) -> nn.Sequential:
    rest = (GroupedUnit(width, width, stride=1, groups=3) for _ in range(units - 1))
    return nn.Sequential(GroupedUnit(in_width, width, stride=2, groups=3), *rest)


class SplitUnit(nn.Module):
    """ShuffleNet V2's unit of stride 1: half the channels pass untouched (figure 3 c of the paper)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(N, width, H, W)` to the same shape."""
        untouched, out = x.chunk(2, dim=1)
        out = self.relu(self.bn1(self.conv1(out)))
        out = self.bn2(self.conv2(out))
        out = self.bn3(self.conv3(out))
        # The untouched half comes from a ReLU, and a second one leaves it as it is. With both halves in this
        # one, a hook on it finds what the published codes call the features before the activation.
        return self.relu(_shuffle(torch.cat([untouched, out], 1), 2))


class DownUnit(nn.Module):
    """ShuffleNet V2's unit of stride 2: two branches, each of half the new channels (figure 3 d)."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = nn.Conv2d(in_width, in_width, 3, 2, padding=1, groups=in_width, bias=False)
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv2 = nn.Conv2d(in_width, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(in_width, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, 2, padding=1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(N, in_width, H, W)` to `(N, width, H / 2, W / 2)`."""
        left = self.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = self.relu(self.bn3(self.conv3(x)))
        right = self.relu(self.bn5(self.conv5(self.bn4(self.conv4(right)))))
        return _shuffle(torch.cat([left, right], 1), 2)


class ShuffleNetV2(nn.Module):
    """ShuffleNet V2 of width 1 (table 5 of arXiv 1807.11164).

    Args:
        num_classes: Length of a row of logits.
    """

    feature_layers: ClassVar = ("layer1", "layer2", "layer3")
    pooled_layer: ClassVar = "avgpool"
    classifier_layer: ClassVar = "linear"

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, _STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _split_stage(_STEM, 116, units=4)
        self.layer2 = _split_stage(116, 232, units=8)
        self.layer3 = _split_stage(232, 464, units=4)
        self.conv2 = nn.Conv2d(464, 1024, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(1024)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(1024, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images `(N, 3, H, W)` of any size to logits `(N, num_classes)`."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.linear(self.avgpool(x).flatten(1))


def _split_stage(in_width: int, width: int, *, units: int) -> nn.Sequential:
    return nn.Sequential(DownUnit(in_width, width), *(SplitUnit(width) for _ in range(units - 1)))


MODELS: dict[str, Callable[[int], nn.Module]] = {"ShuffleV1": ShuffleNetV1, "ShuffleV2": ShuffleNetV2}
"""Networks by RepDistiller's and mdistiller's names; each is called with the number of classes."""

ALIASES = {
    spelling: name
    for name in MODELS
    for spelling in (name.lower(), f"shufflenet{name[-2:].lower()}", f"shufflenet_{name[-2:].lower()}")
}
"""Other spellings, in lower case."""

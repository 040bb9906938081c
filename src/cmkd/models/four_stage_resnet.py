"""ImageNet's ResNets with a stem for small images: the "ResNet50" and "ResNet18" of the CIFAR-100 tables.

Four stages as in He et al. 2016, table 1, but a 3x3 convolution of stride 1 instead of the stem that reduces
224 pixels to 56. They are spelled with capitals as in RepDistiller and mdistiller, and have the state-dict
keys of these. At 224 pixels one wants `timm:resnet50` or `torchvision:resnet50` instead.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from cmkd.models.initial import initialize

_WIDTHS = (64, 128, 256, 512)


class Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion: ClassVar = 1

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = _shortcut(in_width, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(N, in_width, H, W)` to `(N, width, H / stride, W / stride)`."""
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """A 3x3 convolution of stride `stride` between 1x1 convolutions, and a shortcut."""

    expansion: ClassVar = 4

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = _shortcut(in_width, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(N, in_width, H, W)` to `(N, 4 * width, H / stride, W / stride)`."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


def _shortcut(in_width: int, out_width: int, stride: int) -> nn.Module:
    if stride == 1 and in_width == out_width:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_width, out_width, 1, stride, bias=False), nn.BatchNorm2d(out_width))


class FourStageResNet(nn.Module):
    """ResNet with four stages for images of 32 to 64 pixels (He et al. 2016, table 1, with a small stem).

    Args:
        num_classes: Length of a row of logits.
        block: `Basic` or `Bottleneck`.
        blocks: Number of blocks in each stage.
    """

    feature_layers: ClassVar = ("layer1", "layer2", "layer3", "layer4")
    pooled_layer: ClassVar = "avgpool"
    classifier_layer: ClassVar = "linear"

    def __init__(
        self, num_classes: int, *, block: type[Basic] | type[Bottleneck], blocks: tuple[int, int, int, int]
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, _WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
        self.relu = nn.ReLU(inplace=True)
        stages, width = [], _WIDTHS[0]
        for stage, (inner, count) in enumerate(zip(_WIDTHS, blocks, strict=True)):
            rest = [block(inner * block.expansion, inner, 1) for _ in range(count - 1)]
            stages.append(nn.Sequential(block(width, inner, 1 if stage == 0 else 2), *rest))
            width = inner * block.expansion
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(width, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images `(N, 3, H, W)` of any size to logits `(N, num_classes)`."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(self.avgpool(x).flatten(1))


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "ResNet18": partial(FourStageResNet, block=Basic, blocks=(2, 2, 2, 2)),
    "ResNet34": partial(FourStageResNet, block=Basic, blocks=(3, 4, 6, 3)),
    "ResNet50": partial(FourStageResNet, block=Bottleneck, blocks=(3, 4, 6, 3)),
}
"""Networks of this family by name; each is called with the number of classes."""

"""ResNets for small images, as the distillation literature defines them for CIFAR.

The layout (and with it every state-dict key) is that of RepDistiller (Tian et al. 2020) and mdistiller
(Zhao et al. 2022), so checkpoints of either load unchanged: three stages of basic blocks at full, half and
quarter resolution, with 1x1 projections wherever the shape changes ("option B" of He et al. 2016).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

_NARROW = (16, 16, 32, 64)
_WIDE = (32, 64, 128, 256)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_width != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_width, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(N, in_width, H, W)` to `(N, width, H / stride, W / stride)`."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class CifarResNet(nn.Module):
    """ResNet of depth 6n + 2 (He et al. 2016, section 4.2).

    Args:
        num_classes: Length of a row of logits.
        depth: Number of weighted layers, 6n + 2.
        widths: Channels of the stem and of the three stages.
    """

    feature_layers: ClassVar = ("layer1", "layer2", "layer3")
    pooled_layer: ClassVar = "avgpool"
    classifier_layer: ClassVar = "fc"

    def __init__(self, num_classes: int, *, depth: int, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(widths[0], widths[1], blocks, stride=1)
        self.layer2 = _stage(widths[1], widths[2], blocks, stride=2)
        self.layer3 = _stage(widths[2], widths[3], blocks, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images `(N, 3, H, W)` of any size to logits `(N, num_classes)`."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


def _stage(in_width: int, width: int, blocks: int, *, stride: int) -> nn.Sequential:
    rest = (BasicBlock(width, width, 1) for _ in range(blocks - 1))
    return nn.Sequential(BasicBlock(in_width, width, stride), *rest)


MODELS: dict[str, Callable[[int], nn.Module]] = {
    **{f"resnet{d}": partial(CifarResNet, depth=d, widths=_NARROW) for d in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{d}x4": partial(CifarResNet, depth=d, widths=_WIDE) for d in (8, 32)},
}
"""Networks of this family by name; each is called with the number of classes."""

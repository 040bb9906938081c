"""MobileNetV2 for small images (Sandler et al. 2018, arXiv 1801.04381) as the distillation tables use it.

Against the paper: half the width, the first block of the second row with stride 1, ReLU instead of ReLU6, no
dropout, and an expansion convolution even where the expansion is 1. State-dict keys are those of RepDistiller
and mdistiller.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from cmkd.models.initial import initialize, initialize_classifier

#: Expansion, channels, blocks and stride of each row of the paper's table 2.
_ROWS = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_LAST_WIDTH = 1280


class InvertedResidual(nn.Module):
    """1x1 convolution to more channels, 3x3 per channel, 1x1 back to few without activation."""

    def __init__(self, in_width: int, width: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_width * expansion
        self.conv = nn.Sequential(
            nn.Conv2d(in_width, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.has_shortcut = stride == 1 and in_width == width

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(N, in_width, H, W)` to `(N, width, H / stride, W / stride)`."""
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 that reduces the resolution 16 times.

    The ends of its stages have no activation: the blocks are linear bottlenecks.

    Args:
        num_classes: Length of a row of logits.
        width: Factor of the paper's numbers of channels, all but the last, 1280.
    """

    # The last row of each resolution, which is what the published codes take.
    feature_layers: ClassVar = ("blocks.1", "blocks.2", "blocks.4", "blocks.6")
    pooled_layer: ClassVar = "avgpool"
    classifier_layer: ClassVar = "classifier.0"

    def __init__(self, num_classes: int, *, width: float) -> None:
        super().__init__()
        channels = int(32 * width)
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, channels, 3, 2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        rows = []
        for expansion, row_channels, blocks, stride in _ROWS:
            row: list[nn.Module] = []
            for block in range(blocks):
                out = int(row_channels * width)
                row.append(
                    InvertedResidual(channels, out, stride=1 if block else stride, expansion=expansion)
                )
                channels = out
            rows.append(nn.Sequential(*row))
        self.blocks = nn.Sequential(*rows)
        self.conv2 = nn.Sequential(
            nn.Conv2d(channels, _LAST_WIDTH, 1, bias=False),
            nn.BatchNorm2d(_LAST_WIDTH),
            nn.ReLU(inplace=True),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        head = nn.Linear(_LAST_WIDTH, num_classes)
        self.classifier = nn.Sequential(head)  # a level of its own, as in the published keys
        initialize(self)
        initialize_classifier(head)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images `(N, 3, H, W)` of any size to logits `(N, num_classes)`."""
        return self.classifier(self.avgpool(self.conv2(self.blocks(self.conv1(x)))).flatten(1))


MODELS: dict[str, Callable[[int], nn.Module]] = {"MobileNetV2": partial(MobileNetV2, width=0.5)}
"""The network of the tables by mdistiller's name; it is called with the number of classes."""

ALIASES = {"mobile_half": "MobileNetV2", "mobilenetv2": "MobileNetV2", "mobilenet_v2": "MobileNetV2"}
"""Other spellings, in lower case; the first is RepDistiller's."""

"""VGG with batch norm for small images (Simonyan and Zisserman 2015, arXiv 1409.1556, table 1).

Configurations A, B, D and E, and the VGG-8 of the distillation tables; global pooling and one linear layer
instead of three. State-dict keys are those of RepDistiller and mdistiller.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from cmkd.models.initial import initialize, initialize_classifier

_WIDTHS = (64, 128, 256, 512, 512)
_POOLED_FOUR_TIMES = 64  # pixels


class VGG(nn.Module):
    """Five blocks of 3x3 convolutions with batch norm, max pooling between them.

    Below 64 pixels the last two blocks work at the same resolution, 4 x 4 for CIFAR's images, as in the
    published codes.

    Args:
        num_classes: Length of a row of logits.
        convolutions: Number of convolutions in each block.
    """

    # The published codes, too, count the first block as the stem: so VGG has four stages like ResNet50.
    feature_layers: ClassVar = ("block1", "block2", "block3", "block4")
    pooled_layer: ClassVar = "pool4"
    classifier_layer: ClassVar = "classifier"

    def __init__(self, num_classes: int, *, convolutions: tuple[int, int, int, int, int]) -> None:
        super().__init__()
        self.block0 = _block(3, _WIDTHS[0], convolutions[0])
        self.block1 = _block(_WIDTHS[0], _WIDTHS[1], convolutions[1])
        self.block2 = _block(_WIDTHS[1], _WIDTHS[2], convolutions[2])
        self.block3 = _block(_WIDTHS[2], _WIDTHS[3], convolutions[3])
        self.block4 = _block(_WIDTHS[3], _WIDTHS[4], convolutions[4])
        self.pool = nn.MaxPool2d(2)
        self.pool4 = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(_WIDTHS[4], num_classes)
        initialize(self)
        initialize_classifier(self.classifier)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images `(N, 3, H, W)` of at least 8 pixels a side to logits `(N, num_classes)`."""
        height = x.shape[2]
        x = self.block1(self.pool(self.block0(x)))
        x = self.block3(self.pool(self.block2(self.pool(x))))
        x = self.block4(self.pool(x) if height >= _POOLED_FOUR_TIMES else x)
        return self.classifier(self.pool4(x).flatten(1))


def _block(in_width: int, width: int, convolutions: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(convolutions):
        layers += [nn.Conv2d(in_width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        in_width = width
    return nn.Sequential(*layers)


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "vgg8": partial(VGG, convolutions=(1, 1, 1, 1, 1)),
    "vgg11": partial(VGG, convolutions=(1, 1, 2, 2, 2)),
    "vgg13": partial(VGG, convolutions=(2, 2, 2, 2, 2)),
    "vgg16": partial(VGG, convolutions=(2, 2, 3, 3, 3)),
    "vgg19": partial(VGG, convolutions=(2, 2, 4, 4, 4)),
}
"""Networks of this family by name; each is called with the number of classes."""

ALIASES = {f"{name}_bn": name for name in MODELS}
"""Other spellings, in lower case."""

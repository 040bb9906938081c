"""How the convolutional networks of the distillation tables begin."""

from __future__ import annotations

from torch import nn


def initialize(network: nn.Module) -> None:
    """Draw the convolutions anew: normal, variance 2 / (outputs x kernel size) (He et al. 2015, fan-out).

    Biases of convolutions become zero. Batch norm and linear layers keep what torch gives them.

    Args:
        network: Changed in place.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def initialize_classifier(layer: nn.Linear) -> None:
    """Draw a classifier as VGG and MobileNetV2 do: normal with standard deviation 0.01, biases zero.

    Args:
        layer: Changed in place.
    """
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)

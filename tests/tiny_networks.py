"""Networks that train in milliseconds, reached by name as a user's own are: `tiny_networks:student`."""

import torch
from torch import nn


def student(num_classes: int) -> nn.Module:
    """With batch norm and dropout: state beyond the weights, and random numbers in the step."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=4),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(36, num_classes),
    )


def teacher(num_classes: int) -> nn.Module:
    """Deterministic random weights: a run that is continued must meet the same teacher."""
    generator = torch.Generator().manual_seed(7)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, num_classes))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return network


def stating(num_classes: int) -> nn.Module:
    """States how it wants its images normalised."""
    network = student(num_classes)
    network.input_statistics = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    return network


def seven(num_classes: int) -> nn.Module:
    """Does not listen to what it is asked for."""
    return student(7)


def broken(num_classes: int) -> nn.Module:
    """Fails when it is called, not when it is built."""
    return nn.Sequential(nn.Flatten(), nn.Linear(5, num_classes))


def steady(num_classes: int) -> nn.Module:
    """Neither batch statistics nor random numbers: the same answer however a batch is shared out."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4), nn.GroupNorm(2, 8), nn.ReLU(), nn.Flatten(), nn.Linear(392, num_classes)
    )


class Staged(nn.Module):
    """Two stages, a pooled embedding and a classifier; the same answer however a batch is shared out."""

    feature_layers = ("first", "second")
    pooled_layer = "pool"
    classifier_layer = "fc"

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, width, 3, stride=4), nn.GroupNorm(2, width), nn.ReLU())
        self.second = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, stride=2), nn.GroupNorm(2, 2 * width), nn.ReLU(inplace=True)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2 * width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(self.second(self.first(x))).flatten(1))


def staged(num_classes: int) -> nn.Module:
    """A student with features."""
    return Staged(num_classes, 4)


def staged_teacher(num_classes: int) -> nn.Module:
    """A teacher with features, the same every time it is built."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return Staged(num_classes, 6)

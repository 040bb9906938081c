import math

import pytest
import torch
import torchvision
from torch import nn

from cmkd.models import Size, available, build, count_macs, count_parameters, sizes
from tests.models.layouts import PUBLISHED


def test_resnet8_by_hand():
    stem = 3 * 16 * 9 * 32 * 32
    first = 2 * 16 * 16 * 9 * 32 * 32
    second = (16 * 32 * 9 + 32 * 32 * 9 + 16 * 32) * 16 * 16
    third = (32 * 64 * 9 + 64 * 64 * 9 + 32 * 64) * 8 * 8
    assert count_macs(build("resnet8", 100), 32) == stem + first + second + third + 64 * 100


def test_grouped_convolutions_by_the_published_layout():
    def pixels(name):
        if not name.startswith("layer"):
            return 32 * 32
        stage, unit, layer = name[5:].split(".")[:3]
        strided_later = unit == "0" and layer == "conv1"
        return (32 // 2 ** (int(stage) - strided_later)) ** 2

    layout, _ = PUBLISHED["ShuffleV1"]
    convolutions = sum(math.prod(s) * pixels(name) for name, s in layout.items() if len(s) == 4)
    assert count_macs(build("ShuffleV1", 100), 32) == convolutions + 960 * 100


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "vit_b_32"])
def test_networks_whose_macs_torchvision_publishes(name):
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None)
    published = torchvision.models.get_model_weights(name).DEFAULT.meta["_ops"]
    assert count_macs(network, 224) / 1e9 == pytest.approx(published, abs=0.0006)


class Attending(nn.Module):
    """A patch in each token, and attention among them, by torch's module."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, stride=4)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).mT
        return self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_attention_by_hand(device):
    """Also where torch has one kernel for all of it, which is what it takes on a CPU."""
    tokens, width = (8 // 4) ** 2, 32
    projections = 4 * tokens * width * width  # query, key, value, output
    attention = 2 * tokens * tokens * width  # query by key, weights by value; the heads share the width
    network = Attending().to(device)
    assert count_macs(network, 8) == tokens * width * 3 * 4 * 4 + projections + attention
    assert torch.backends.mha.get_fastpath_enabled()


# Millions, printed by other implementations of these networks for one image of 32 x 32.
MILLIONS = {"resnet20": 40.81, "resnet32": 69.12, "resnet56": 125.75, "ResNet18": 560, "ResNet50": 1300}


def test_sizes_of_all_networks():
    found = {size.name: size for size in sizes()}
    assert list(found) == available()
    assert {name: size.parameters for name, size in found.items()} == {
        name: PUBLISHED[name][1] for name in available()
    }
    assert found["resnet8"] == Size("resnet8", 83_892, 12_507_392, 32)
    for name, millions in MILLIONS.items():
        assert found[name].macs / 1e6 == pytest.approx(millions, rel=0.01)


def test_the_network_is_left_as_it_was():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    network[1].eval()
    count_macs(network, 8)
    assert [module.training for module in network.modules()] == [True, True, False, True]
    assert not network[1].num_batches_tracked


def test_count_parameters_leaves_buffers_out():
    assert count_parameters(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))) == 3 * 4 + 4 + 2 * 4

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from cmkd.errors import InputError
from cmkd.models import FeatureLayers, build, feature_layers


def run_with_hooks(network, layers, size):
    """Shapes of the stages, and the embedding pushed through the classifier, by hooks of their own."""
    network.eval()
    kept = {}
    for name in layers.stages:
        network.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: kept.__setitem__(name, tuple(output.shape))
        )
    path, _, side = layers.pooled.partition(":")
    network.get_submodule(path).register_forward_hook(
        lambda module, args, output: kept.__setitem__("pooled", args[0] if side == "input" else output)
    )
    with torch.no_grad():
        logits = network(torch.randn(2, 3, size, size))
        head = network.get_submodule(layers.classifier)
        again = F.linear(kept["pooled"].flatten(1), head.weight.flatten(1), head.bias)
    torch.testing.assert_close(again, logits)
    return [kept[name] for name in layers.stages]


# Channels and sides of the stages at the given size of image as in the papers' tables of the architecture.
@pytest.mark.parametrize(
    ("name", "size", "shapes"),
    [
        ("resnet14", 32, [(16, 32), (32, 16), (64, 8)]),
        ("timm:resnet18", 64, [(64, 16), (128, 8), (256, 4), (512, 2)]),
        ("timm:test_convnext", 96, [(24, 24), (32, 12), (48, 6), (64, 3)]),
        ("timm:mobilenetv3_small_100", 64, [(16, 16), (24, 8), (48, 4), (576, 2)]),
        ("timm:regnetx_002", 64, [(24, 16), (56, 8), (152, 4), (368, 2)]),
        ("torchvision:resnet18", 64, [(64, 16), (128, 8), (256, 4), (512, 2)]),
        ("torchvision:mobilenet_v2", 64, [(24, 16), (32, 8), (96, 4), (1280, 2)]),
        ("torchvision:densenet121", 64, [(256, 16), (512, 8), (1024, 4), (1024, 2)]),
        ("torchvision:regnet_x_400mf", 64, [(32, 16), (64, 8), (160, 4), (400, 2)]),
    ],
)
def test_stages_and_embedding_of_convolutional_networks(name, size, shapes):
    network = build(name, 7)
    layers = feature_layers(network, image_size=size)
    found = run_with_hooks(network, layers, size)
    assert found == [(2, channels, side, side) for channels, side in shapes]


def test_names():
    assert feature_layers(build("timm:test_resnet", 5)) == FeatureLayers(
        ("layer1", "layer2", "layer3", "layer4"), "global_pool", "fc"
    )
    assert feature_layers(torchvision.models.resnet18(), image_size=64) == FeatureLayers(
        ("layer1", "layer2", "layer3", "layer4"), "avgpool", "fc"
    )
    # What follows is a bare mean over the pixels, and dropout, which counts for nothing.
    assert feature_layers(torchvision.models.mobilenet_v2(), image_size=64) == FeatureLayers(
        ("features.3", "features.6", "features.13", "features.18"), "classifier.1:input", "classifier.1"
    )


def test_transformers_have_quarters():
    network = build("timm:test_vit", 5)  # six blocks, images of 160 pixels
    layers = feature_layers(network)
    assert layers.stages == ("blocks.0", "blocks.2", "blocks.3", "blocks.5")
    assert run_with_hooks(network, layers, 160) == [(2, 101, 64)] * 4

    network = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=8, num_heads=2, hidden_dim=16, mlp_dim=16, num_classes=3
    )
    layers = feature_layers(network, image_size=32)
    assert layers.stages == tuple(f"encoder.layers.encoder_layer_{block}" for block in (1, 3, 5, 7))
    assert run_with_hooks(network, layers, 32) == [(2, 17, 16)] * 4


def test_a_transformer_that_halves_its_maps():
    network = timm.create_model(
        "swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1), embed_dim=12, num_heads=(1, 1, 1, 1)
    )
    assert feature_layers(network).stages == tuple(f"layers.{stage}:channels_last" for stage in range(4))
    swin = torchvision.models.SwinTransformer([4, 4], 12, [1, 1, 1], [1, 1, 1], [7, 7])
    layers = feature_layers(swin, image_size=64)
    assert layers.stages[:2] == ("features.1:channels_last", "features.3:channels_last")
    assert layers.pooled == "flatten"


def test_channels_are_where_the_other_stages_have_them():
    """16 channels of 16 x 16 say nothing, 8 x 8 x 32 do."""

    class Last(nn.Module):
        def __init__(self, width, wanted):
            super().__init__()
            self.conv = nn.Conv2d(width, wanted, 3, stride=2, padding=1)

        def forward(self, x):
            return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    class Network(nn.Sequential):
        def forward(self, x):
            return super().forward(x.permute(0, 2, 3, 1))

    network = Network(Last(3, 16), Last(16, 32), nn.Flatten(), nn.Linear(8 * 8 * 32, 5))
    assert feature_layers(network).stages == ("0:channels_last", "1:channels_last")


class Bottleneck(nn.Module):
    """Begins at the resolution of the stage before, as MobileNetV2's blocks do."""

    def __init__(self, width, stride):
        super().__init__()
        self.expand = nn.Conv2d(width, 2 * width, 1)
        self.reduce = nn.Conv2d(2 * width, width, 3, stride, padding=1)

    def forward(self, x):
        return self.reduce(self.expand(x).relu())


class Own(nn.Module):
    """A stem, two stages inside a container, one ReLU for all, pooling by a function, dropout."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.body = nn.Sequential(Bottleneck(4, 2), Bottleneck(4, 1), Bottleneck(4, 2), nn.BatchNorm2d(4))
        self.gate = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = self.body(self.relu(self.stem(x)))
        x = self.relu(x * self.gate(x))
        return self.head(self.drop(x.mean((2, 3))))


def test_rule_for_networks_of_ones_own():
    assert feature_layers(Own()) == FeatureLayers(("stem", "body.1", "body.3"), "head:input", "head")


@pytest.mark.parametrize(("side", "stages"), [(16, ("1",)), (8, ("1", "3"))])
def test_dropout_and_pooling_that_changes_nothing_end_no_stage(side, stages):
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Dropout2d(),
        nn.AdaptiveAvgPool2d(side),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(4 * side * side, 3),
    )
    assert feature_layers(network) == FeatureLayers(stages, "4", "6")


class Wrapped(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)


def test_a_network_inside_another():
    layers = feature_layers(Wrapped(Own()))
    assert layers.stages == ("network.stem", "network.body.1", "network.body.3")
    assert layers.classifier == "network.head"


def test_the_network_is_left_as_it_was():
    network = nn.Sequential(Own())
    network.train()
    network[0].body[3].eval()  # frozen statistics beside a network in training
    modes = [module.training for module in network.modules()]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    feature_layers(network)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_network_may_state_its_layers():
    class Stating(nn.Sequential):
        feature_layers = ("0",)
        pooled_layer = "1"
        classifier_layer = "2"

    network = Stating(nn.Conv2d(3, 4, 32), nn.Flatten(), nn.Linear(4, 3))
    assert feature_layers(network) == FeatureLayers(("0",), "1", "2")
    assert feature_layers(network).preactivations == ("0:preactivation",)
    network.preactivation_layers = ("0:input",)
    assert feature_layers(network).preactivations == ("0:input",)


def test_double_precision():
    assert feature_layers(Own().double()).classifier == "head"


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)), r"no stages in Sequential.*by hand"),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            r"no linear layer in Sequential.*by hand",
        ),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(5, 4)), "failed on an image of 32 x 32: RuntimeError"),
    ],
)
def test_where_the_rule_finds_nothing(network, message):
    with pytest.raises(InputError, match=message):
        feature_layers(network)

"""The networks of the distillation tables against the published code: names, shapes, counts, maths."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from cmkd.errors import InputError
from cmkd.models import available, build, count_parameters, feature_layers, load_weights
from cmkd.models.capture import Capture
from tests.models.layouts import PUBLISHED
from tests.models.test_layers import run_with_hooks


def on_meta(name, classes=100):
    with torch.device("meta"):
        return build(name, classes)


def randomize(network):
    """Weights and statistics of batch norm that differ from 1 and 0, so that a forgotten one shows."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return network.double().eval()


def copy_in_order(source, target):
    """Weights by their order, where the other implementation has other names for the same layers."""
    values = list(source.state_dict().values())
    names = list(target.state_dict())
    target.load_state_dict(dict(zip(names, values, strict=True)))
    return target.double().eval()


def test_every_network_of_the_package_is_here():
    assert set(available()) == set(PUBLISHED) - {"wrn_28_10"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_shapes_and_number_of_parameters(name):
    layout, parameters = PUBLISHED[name]
    network = on_meta(name)
    state = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert state == layout
    assert count_parameters(network) == parameters
    trained = (shape for key, shape in layout.items() if "running_" not in key and "num_batches" not in key)
    assert sum(math.prod(shape) for shape in trained) == parameters


@pytest.mark.parametrize(
    ("name", "millions"), [("wrn_40_1", 0.6), ("wrn_40_2", 2.2), ("wrn_40_4", 8.9), ("wrn_28_10", 36.5)]
)
def test_parameters_published_by_zagoruyko_and_komodakis(name, millions):
    # Table 4 of arXiv 1605.07146, for 10 classes.
    assert count_parameters(on_meta(name, 10)) == pytest.approx(millions * 1e6, abs=0.06e6)


def of_repdistiller(state):
    return {"epoch": 240, "model": state, "best_acc": torch.tensor(72.5), "optimizer": {"lr": 0.05}}


def of_mdistiller(state):
    return {"epoch": 240, "model": {f"module.student.{key}": tensor for key, tensor in state.items()}}


def with_numpys_accuracy(state):
    return {"model": state, "accuracy": np.float64(72.5)}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("resnet8x4", of_mdistiller),
        ("ResNet18", of_repdistiller),
        ("wrn_16_2", of_repdistiller),
        ("vgg8", with_numpys_accuracy),
        ("MobileNetV2", of_repdistiller),
        ("ShuffleV1", of_mdistiller),
        ("ShuffleV2", with_numpys_accuracy),
    ],
)
def test_published_checkpoints_load(tmp_path, name, content):
    layout, _ = PUBLISHED[name]
    state = {
        key: torch.randint(9, shape) if key.endswith("num_batches_tracked") else torch.rand(shape)
        for key, shape in layout.items()
    }
    torch.save(content(state), tmp_path / "ckpt_epoch_240.pth")
    network = build(name, 100)
    network.load_state_dict(state, strict=True)
    nn.init.zeros_(next(network.parameters()))
    load_weights(network, tmp_path / "ckpt_epoch_240.pth")
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(("name", "theirs"), [("ResNet18", "resnet18"), ("ResNet50", "resnet50")])
def test_four_stage_resnets_are_torchvisions_with_a_small_stem(name, theirs):
    network = randomize(build(name, 7))
    other = torchvision.models.get_model(theirs, weights=None, num_classes=7)
    other.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    other.maxpool = nn.Identity()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(network(images), copy_in_order(network, other)(images))


def test_shufflenet_v2_is_torchvisions_with_a_small_stem():
    network = randomize(build("ShuffleV2", 7))
    other = torchvision.models.shufflenet_v2_x1_0(weights=None, num_classes=7)
    other.conv1[0] = nn.Conv2d(3, 24, 1, bias=False)
    other.maxpool = nn.Identity()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(network(images), copy_in_order(network, other)(images))


@pytest.mark.parametrize(("size", "last_pool"), [(32, []), (64, ["M"])])
def test_vgg_is_torchvisions_without_the_last_pools(size, last_pool):
    network = randomize(build("vgg11", 7))
    layers = [64, "M", 128, "M", 256, 256, "M", 512, 512, *last_pool, 512, 512]
    features = torchvision.models.vgg.make_layers(layers, batch_norm=True)
    other = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 7))
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    torch.testing.assert_close(network(images), copy_in_order(network, other)(images))


class Written:
    """The layers of a state dict as functions."""

    def __init__(self, network):
        self.state = network.state_dict()

    def conv(self, x, name, **options):
        return F.conv2d(x, self.state[f"{name}.weight"], **options)

    def norm(self, x, name):
        mean, variance, scale, shift = (
            self.state[f"{name}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    def logits(self, x, name):
        return x.mean((2, 3)) @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]


def test_wide_resnet_written_out():
    network = randomize(build("wrn_16_2", 7))
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    f = Written(network)
    x = f.conv(images, "conv1", padding=1)
    for stage in (1, 2, 3):
        for block in (0, 1):
            name, stride = f"block{stage}.layer.{block}", 2 if stage > 1 and block == 0 else 1
            active = f.norm(x, f"{name}.bn1").clamp_min(0)
            y = f.norm(f.conv(active, f"{name}.conv1", stride=stride, padding=1), f"{name}.bn2").clamp_min(0)
            y = f.conv(y, f"{name}.conv2", padding=1)
            x = y + (f.conv(active, f"{name}.convShortcut", stride=stride) if block == 0 else x)
    expected = f.logits(f.norm(x, "bn1").clamp_min(0), "fc")
    torch.testing.assert_close(network(images), expected)


def test_mobilenet_written_out():
    network = randomize(build("MobileNetV2", 7))
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    f = Written(network)
    x = f.norm(f.conv(images, "conv1.0", stride=2, padding=1), "conv1.1").clamp_min(0)
    for row, blocks in enumerate((1, 2, 3, 4, 3, 3, 1)):
        for block in range(blocks):
            name, stride = f"blocks.{row}.{block}.conv", 2 if row in (2, 3, 5) and block == 0 else 1
            y = f.norm(f.conv(x, f"{name}.0"), f"{name}.1").clamp_min(0)
            y = f.conv(y, f"{name}.3", stride=stride, padding=1, groups=y.shape[1])
            y = f.norm(y, f"{name}.4").clamp_min(0)
            y = f.norm(f.conv(y, f"{name}.6"), f"{name}.7")
            x = y + x if y.shape == x.shape else y
    x = f.norm(f.conv(x, "conv2.0"), "conv2.1").clamp_min(0)
    torch.testing.assert_close(network(images), f.logits(x, "classifier.0"))


def test_shufflenet_v1_written_out():
    network = randomize(build("ShuffleV1", 7))
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    f = Written(network)
    x = f.norm(f.conv(images, "conv1"), "bn1").clamp_min(0)
    for stage, units in ((1, 4), (2, 8), (3, 4)):
        for unit in range(units):
            name, groups = f"layer{stage}.{unit}", 1 if (stage, unit) == (1, 0) else 3
            y = f.norm(f.conv(x, f"{name}.conv1", groups=groups), f"{name}.bn1").clamp_min(0)
            # Channel c of group g goes to place c * groups + g.
            per_group = y.shape[1] // groups
            y = y[:, [g * per_group + c for c in range(per_group) for g in range(groups)]]
            stride = 2 if unit == 0 else 1
            y = f.conv(y, f"{name}.conv2", stride=stride, padding=1, groups=y.shape[1])
            y = f.norm(y, f"{name}.bn2").clamp_min(0)
            y = f.norm(f.conv(y, f"{name}.conv3", groups=3), f"{name}.bn3")
            if unit == 0:
                x = torch.cat([y, F.avg_pool2d(x, 3, 2, 1)], 1).clamp_min(0)
            else:
                x = (y + x).clamp_min(0)
    torch.testing.assert_close(network(images), f.logits(x, "linear"))


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("resnet8x4", [(64, 32), (128, 16), (256, 8)]),
        ("ResNet50", [(256, 32), (512, 16), (1024, 8), (2048, 4)]),
        ("wrn_16_2", [(32, 32), (64, 16), (128, 8)]),
        ("vgg8", [(128, 16), (256, 8), (512, 4), (512, 4)]),
        ("MobileNetV2", [(12, 16), (16, 8), (48, 4), (160, 2)]),
        ("ShuffleV1", [(240, 16), (480, 8), (960, 4)]),
        ("ShuffleV2", [(116, 16), (232, 8), (464, 4)]),
    ],
)
def test_feature_layers_are_those_of_the_published_codes(name, shapes):
    # Channels as in mdistiller's `get_stage_channels()`, the stem left out.
    network = build(name, 5)
    found = run_with_hooks(network, feature_layers(network), 32)
    assert found == [(2, channels, side, side) for channels, side in shapes]


def captured(network, layers):
    """Features on images that the batch norms have not seen before, with their statistics put in order."""
    torch.manual_seed(0)
    for _ in range(5):
        network(torch.randn(8, 3, 32, 32))
    network.eval()
    return Capture(network, layers)(torch.randn(4, 3, 32, 32)).features


def test_features_of_a_wide_resnet_before_the_activation():
    """As published: each stage's sum, through the batch norm that the next block or the head begins with."""
    network = build("wrn_16_1", 5)
    layers = feature_layers(network)
    with torch.no_grad():
        features = captured(network, [*layers.stages, *layers.preactivations])
        norms = [network.block2.layer[0].bn1, network.block3.layer[0].bn1, network.bn1]
        for stage, before, norm in zip(layers.stages, layers.preactivations, norms, strict=True):
            assert torch.equal(features[before], norm(features[stage]))


def test_features_of_shufflenet_v2_before_the_activation():
    """As published: the untouched half, and what the last batch norm makes of the other one."""
    network = build("ShuffleV2", 5)
    layers = feature_layers(network)
    last = [f"{stage}.{len(network.get_submodule(stage)) - 1}" for stage in layers.stages]
    with torch.no_grad():
        features = captured(network, [*layers.stages, *layers.preactivations, *(f"{x}.bn3" for x in last)])
        for stage, before, unit in zip(layers.stages, layers.preactivations, last, strict=True):
            assert torch.equal(features[before][:, 1::2], features[f"{unit}.bn3"])
            assert (features[before][:, 0::2] >= 0).all()
            assert torch.equal(features[before].relu(), features[stage])


@pytest.mark.parametrize("name", ["resnet8", "ResNet18", "wrn_10_1", "vgg8", "ShuffleV1", "ShuffleV2"])
def test_what_a_hook_keeps_is_not_overwritten(name):
    network = build(name, 5)
    kept, copies = [], []

    def keep(module, args, output):
        kept.append(output)
        copies.append(output.clone())

    for layer in feature_layers(network).stages:
        network.get_submodule(layer).register_forward_hook(keep)
    network(torch.randn(2, 3, 32, 32))
    assert kept
    assert all(torch.equal(now, then) for now, then in zip(kept, copies, strict=True))
    if not name.startswith("wrn"):  # whose blocks end before an activation
        assert all(feature.min() >= 0 for feature in kept)


@pytest.mark.parametrize("name", ["ResNet18", "wrn_10_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2"])
def test_every_parameter_learns_and_any_size_of_image_will_do(name):
    network = build(name, 5).to(memory_format=torch.channels_last)
    for size in (28, 32, 65):
        assert network(torch.randn(2, 3, size, size)).shape == (2, 5)
    network(torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "layer", "expected"),
    [
        ("ResNet18", "layer3.0.conv1", (2 / (256 * 9)) ** 0.5),
        ("wrn_28_4", "block3.layer.1.conv1", (2 / (256 * 9)) ** 0.5),
        ("vgg8", "block3.0", (2 / (512 * 9)) ** 0.5),
        ("vgg8", "classifier", 0.01),
        ("MobileNetV2", "conv2.0", (2 / 1280) ** 0.5),
        ("MobileNetV2", "classifier.0", 0.01),
        # ShuffleNets keep what torch draws: uniform within 1 / sqrt(inputs of an output).
        ("ShuffleV2", "conv2", (1 / 464) ** 0.5 / 3**0.5),
    ],
)
def test_initialization_is_that_of_the_published_code(name, layer, expected):
    torch.manual_seed(0)
    network = build(name, 100)
    module = network.get_submodule(layer)
    assert module.weight.std().item() == pytest.approx(expected, rel=0.02)
    if module.bias is not None:
        assert not module.bias.any()


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("WRN-40-2", "wrn_40_2"),
        ("wrn40_2", "wrn_40_2"),
        ("ResNet32x4", "resnet32x4"),
        ("VGG13", "vgg13"),
        ("vgg13_bn", "vgg13"),
        ("mobile_half", "MobileNetV2"),
        ("mobilenetv2", "MobileNetV2"),
        ("ShuffleNetV1", "ShuffleV1"),
        ("shufflenet_v2", "ShuffleV2"),
    ],
)
def test_spellings_of_the_papers(spelling, name):
    assert on_meta(spelling).state_dict().keys() == PUBLISHED[name][0].keys()


@pytest.mark.parametrize("name", ["resnet50", "resnet18"])
def test_names_of_imagenet_networks_are_not_taken_for_those_of_cifar(name):
    with pytest.raises(InputError, match=rf"did you mean '{name.replace('resnet', 'ResNet')}'.*timm:NAME"):
        build(name, 10)


@pytest.mark.parametrize(("name", "message"), [("wrn_41_2", "depth 6n .* not 41"), ("wrn_40_0", "not 0")])
def test_wide_resnets_that_do_not_exist(name, message):
    with pytest.raises(InputError, match=message):
        build(name, 10)

import pytest
import torch
import torch.nn.functional as F

from cmkd.models import available, build, count_parameters


def parameters_by_hand(depth, stem, widths, classes):
    """Weights of every convolution, two numbers per channel of every batch norm, and the classifier."""
    total = 3 * stem * 9 + 2 * stem
    before = stem
    for stage, width in enumerate(widths):
        convolutions = before * width * 9 + ((depth - 2) // 3 - 1) * width * width * 9
        norms = (depth - 2) // 3 * 2 * width
        projection = before * width + 2 * width if stage > 0 or before != width else 0
        total += convolutions + norms + projection
        before = width
    return total + before * classes + classes


@pytest.mark.parametrize("depth", [8, 14, 20, 32, 44, 56, 110])
def test_parameters_of_narrow_networks(depth):
    expected = parameters_by_hand(depth, 16, (16, 32, 64), 100)
    assert count_parameters(build(f"resnet{depth}", 100)) == expected


@pytest.mark.parametrize("depth", [8, 32])
def test_parameters_of_wide_networks(depth):
    expected = parameters_by_hand(depth, 32, (64, 128, 256), 100)
    assert count_parameters(build(f"resnet{depth}x4", 100)) == expected


@pytest.mark.parametrize(
    ("name", "millions"), [("resnet20", 0.27), ("resnet32", 0.46), ("resnet44", 0.66), ("resnet56", 0.85)]
)
def test_parameters_published_by_he_et_al(name, millions):
    # Table 6 of arXiv 1512.03385, for 10 classes and shortcuts without parameters; the two projections have
    # 16 * 32 + 64 and 32 * 64 + 128 of them.
    assert count_parameters(build(name, 10)) - 576 - 2176 == pytest.approx(millions * 1e6, abs=0.006e6)


def test_state_dict_keys_are_those_of_repdistiller():
    def norm(name):
        return [
            f"{name}.{part}"
            for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        ]

    expected = ["conv1.weight", *norm("bn1"), "fc.weight", "fc.bias"]
    for layer in ("layer1.0", "layer2.0", "layer3.0"):
        expected += [
            f"{layer}.conv1.weight",
            *norm(f"{layer}.bn1"),
            f"{layer}.conv2.weight",
            *norm(f"{layer}.bn2"),
        ]
        if layer != "layer1.0":
            expected += [f"{layer}.downsample.0.weight", *norm(f"{layer}.downsample.1")]
    assert sorted(build("resnet8", 10).state_dict()) == sorted(expected)
    assert "layer1.0.downsample.0.weight" in build("resnet8x4", 10).state_dict()
    assert "layer3.8.conv2.weight" in build("resnet56", 10).state_dict()


def test_forward_equals_the_definition_written_out():
    torch.manual_seed(0)
    network = build("resnet8", 7).double().train()
    for _ in range(3):  # running statistics that differ from 0 and 1
        network(torch.randn(8, 3, 16, 16, dtype=torch.float64))
    network.eval()
    state = network.state_dict()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)

    def norm(x, name):
        mean, variance, scale, shift = (
            state[f"{name}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    x = norm(F.conv2d(images, state["conv1.weight"], padding=1), "bn1").clamp_min(0)
    for layer, stride in (("layer1.0", 1), ("layer2.0", 2), ("layer3.0", 2)):
        shortcut = x
        if stride == 2:
            shortcut = norm(
                F.conv2d(x, state[f"{layer}.downsample.0.weight"], stride=2), f"{layer}.downsample.1"
            )
        y = norm(
            F.conv2d(x, state[f"{layer}.conv1.weight"], stride=stride, padding=1), f"{layer}.bn1"
        ).clamp_min(0)
        y = norm(F.conv2d(y, state[f"{layer}.conv2.weight"], padding=1), f"{layer}.bn2")
        x = (y + shortcut).clamp_min(0)
    expected = x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]
    torch.testing.assert_close(network(images), expected)


@pytest.mark.parametrize("size", [28, 32, 65])
def test_any_image_size(size):
    assert build("resnet8", 5)(torch.zeros(2, 3, size, size)).shape == (2, 5)


def test_initialisation_is_kaiming_fan_out():
    torch.manual_seed(0)
    network = build("resnet8x4", 10)
    weight = network.layer3[0].conv1.weight  # 128 channels to 256, 3 x 3
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)
    assert torch.equal(network.bn1.weight, torch.ones(32))
    assert torch.equal(network.bn1.bias, torch.zeros(32))


def test_names_of_the_literature_are_available():
    expected = {f"resnet{depth}" for depth in (8, 14, 20, 32, 44, 56, 110)} | {"resnet8x4", "resnet32x4"}
    assert expected <= set(available())

import math

import pytest
import torch

from cmkd.training.config import TrainConfig
from cmkd.training.optim import build_optimizer, learning_rate


def rates(steps, **options):
    config = TrainConfig(lr=1.0, **options)
    return [learning_rate(step, 10, config) for step in steps]


def test_warm_up_rises_linearly_to_the_peak():
    assert rates([0, 4, 9], epochs=4, warmup_epochs=1) == pytest.approx([0.1, 0.5, 1.0])


def test_cosine_is_half_way_at_half_time_and_ends_near_zero():
    # 30 steps after the warm-up: step 25 is the 15th of them
    peak, half, last = rates([10, 25, 39], epochs=4, warmup_epochs=1)
    assert peak == pytest.approx(1.0)
    assert half == pytest.approx(0.5)
    assert last == pytest.approx(0.5 * (1 + math.cos(math.pi * 29 / 30)))


def test_multistep_defaults_are_the_literatures_milestones_scaled():
    steps = [1499, 1500, 1800, 2100, 2399]
    expected = [1.0, 0.1, 0.01, 0.001, 0.001]
    assert rates(steps, epochs=240, warmup_epochs=0, schedule="multistep") == pytest.approx(expected)


def test_multistep_takes_milestones_and_decay():
    steps = [9, 10, 20]
    options = {"epochs": 3, "warmup_epochs": 0, "schedule": "multistep", "milestones": [1, 2], "decay": 0.5}
    assert rates(steps, **options) == pytest.approx([1.0, 0.5, 0.25])


def test_constant_stays():
    assert rates([10, 39], epochs=4, warmup_epochs=1, schedule="constant") == [1.0, 1.0]


@pytest.mark.parametrize("layout", ["contiguous", "channels last", "with gaps"])
def test_sgd_is_nesterovs_on_parameters_of_any_layout(layout):
    weight = torch.randn(4, 3, 3, 2, generator=torch.Generator().manual_seed(0))
    if layout == "channels last":
        weight = weight.contiguous(memory_format=torch.channels_last)
    if layout == "with gaps":
        weight = torch.stack([weight, weight], dim=-1)[..., 0]
    network = torch.nn.Module()
    network.weight = torch.nn.Parameter(weight.clone() if layout == "contiguous" else weight)
    config = TrainConfig(lr=0.1, momentum=0.9, weight_decay=0.01)
    optimizer = build_optimizer(network, config)
    assert optimizer.defaults["fused"] == (None if layout == "with gaps" else True)

    expected, momentum = weight.clone().double(), torch.zeros(4, 3, 3, 2, dtype=torch.float64)
    for step in range(3):
        direction = torch.arange(72.0).view(4, 3, 3, 2).mul(step + 1).cos()
        (network.weight * direction).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        gradient = direction.double() + 0.01 * expected
        momentum = 0.9 * momentum + gradient
        expected -= 0.1 * (gradient + 0.9 * momentum)
    torch.testing.assert_close(network.weight.detach(), expected.float())

import math

import pytest

from cmkd.training.config import TrainConfig
from cmkd.training.optim import learning_rate


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

import numpy as np
import pytest
import torch
from torch import nn

from cmkd import models
from cmkd.evaluation.cost import cost, median_and_tenths, summed


def test_size_and_multiplications_by_hand(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 5))
    file = tmp_path / "weights.safetensors"
    models.save_weights(network, file)
    found = cost(network, 4, torch.device("cpu"), weights=file)
    assert found["parameters"] == 48 * 5 + 5
    assert found["macs"] == 48 * 5
    assert found["weight_bytes"] == file.stat().st_size > 4 * 245
    assert cost(network, 4, torch.device("cpu"))["weight_bytes"] == 4 * 245
    assert 0 < found["cpu"]["latency_p10_ms"] <= found["cpu"]["latency_ms"] <= found["cpu"]["latency_p90_ms"]


@pytest.mark.parametrize("values", [[1.0, 4.0], [5.0, 1.0, 1.0]])
def test_percentiles_of_few_passes_lie_among_them(values):
    assert median_and_tenths(values) == pytest.approx(np.percentile(values, [50, 10, 90]))


def test_members_of_an_ensemble_run_one_after_the_other():
    def member(rate):
        return {
            "image_size": 8,
            "parameters": 10,
            "cpu": {"latency_ms": 2.0, "images_per_second": rate, "batch": 4},
        }

    assert summed([member(100.0), member(50.0)]) == {
        "members": 2,
        "parameters": 20,
        "cpu": {"latency_ms": 4.0, "images_per_second": 1 / (1 / 100 + 1 / 50), "batch": 4},
    }

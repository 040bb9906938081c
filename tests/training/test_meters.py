import io

import pytest
import torch

from cmkd.training.meters import Meters


def filled():
    meters = Meters(torch.device("cpu"))
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0]])
    parts = {"weight": torch.tensor([0.0, 1.0]), "task": torch.tensor(0.5)}
    meters.add(torch.tensor(1.0), logits, torch.tensor([0, 0]), parts)
    meters.add(
        torch.tensor(4.0),
        logits[:1],
        torch.tensor([0]),
        {"weight": torch.tensor([0.26]), "task": torch.tensor(2.0)},
    )
    return meters


def test_means_weigh_every_sample_alike():
    means = filled().means()
    assert means["loss"] == pytest.approx((2 * 1.0 + 4.0) / 3)
    assert means["accuracy"] == pytest.approx(2 / 3)
    assert means["task"] == pytest.approx((2 * 0.5 + 2.0) / 3)
    assert means["weight"] == pytest.approx(1.26 / 3)


def test_histogram_counts_both_ends():
    counts = filled().histograms()["weight"]
    assert [bin_ for bin_, count in enumerate(counts) if count] == [0, 5, 19]
    assert sum(counts) == 3


def test_state_goes_through_a_file_and_the_sums_go_on():
    file = io.BytesIO()
    torch.save(filled().state_dict(), file)
    file.seek(0)
    restored = Meters(torch.device("cpu"))
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert restored.means() == filled().means()
    assert restored.histograms() == filled().histograms()
    restored.reset()
    assert restored.means() == {}

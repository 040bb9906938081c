from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from cmkd.data import load
from cmkd.data.torchvision_sets import read_idx

ASSETS = resources.files("cmkd.data") / "assets"
OFFICIAL = Path("/usr/share/datasets/fashion-mnist")  # where Debian's dataset-fashion-mnist installs it


@pytest.fixture(scope="module")
def fashion():
    return load("fashion-mnist-12k")


def test_balanced(fashion):
    assert torch.bincount(fashion.train.targets).tolist() == [1000] * 10
    assert torch.bincount(fashion.test.targets).tolist() == [200] * 10
    assert fashion.train.read(torch.arange(3)).shape == (3, 1, 28, 28)
    assert fashion.num_classes == 10


def test_statistics_are_those_of_the_whole_set(fashion):
    pixels = fashion.train.images.double() / 255
    assert pixels.mean().item() == pytest.approx(fashion.mean[0], abs=0.002)
    assert pixels.std().item() == pytest.approx(fashion.std[0], abs=0.002)


def test_small_enough_and_with_its_licence():
    assert (ASSETS / "fashion_mnist_12k.npz").stat().st_size <= 6_000_000
    licence = (ASSETS / "LICENSE-fashion-mnist.txt").read_text(encoding="utf-8")
    assert "2017 Zalando SE" in licence
    assert "Permission is hereby granted, free of charge" in licence


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
@pytest.mark.parametrize(("part", "official"), [("train", "train"), ("test", "t10k")])
def test_images_are_the_official_ones(part, official):
    with np.load(ASSETS / "fashion_mnist_12k.npz") as arrays:
        source = arrays[f"{part}_source_indices"]
        assert len(np.unique(source)) == len(source)
        images = read_idx(OFFICIAL, f"{official}-images-idx3-ubyte")
        targets = read_idx(OFFICIAL, f"{official}-labels-idx1-ubyte")
        assert np.array_equal(arrays[f"{part}_images"], images[source])
        assert np.array_equal(arrays[f"{part}_targets"], targets[source])

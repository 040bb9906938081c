"""The benchmark of the readers: every contestant reads the same images."""

from pathlib import Path

import pytest
import torch


@pytest.fixture
def reading(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return pytest.importorskip("reading")


def test_every_reader_passes_over_all_images(reading, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "index"))
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    reading.write_sets(tmp_path / "set", 64, 48, 16)
    passes = reading.readers(tmp_path / "set")
    assert list(passes) == ["ImageFolder", "folder", "wds", "hf"]
    assert len(list(passes.pop("ImageFolder")())) == 1
    (folder,), (shards,), (table,) = (list(one_pass()) for one_pass in passes.values())
    assert folder.images.shape == (16, 3, 224, 224)
    assert torch.equal(
        shards.images, table.images
    )  # in the order of their numbers, where folders sort by class
    assert torch.equal(shards.targets, table.targets)


def test_ratios_are_against_image_folder(reading):
    table = reading.table("speed", {"small": {"ImageFolder": [1.0, 2.0, 9.0], "wds": [3.0, 3.0, 3.0]}})
    assert "| small | 2 (1.00 x) | 3 (1.50 x) |" in table

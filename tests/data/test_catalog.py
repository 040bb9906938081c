import sys

import pytest

from cmkd import data
from cmkd.data import available, load
from cmkd.errors import InputError

FAMILY = '''
import torch
from cmkd.data import ImageData, TensorImages

def black(root):
    """Black squares."""
    images = TensorImages(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
    statistics = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    parts = {"train": images, "test": images}
    return ImageData(name="black", classes=("a", "b"), image_size=8, augment="none", **parts, **statistics)

DATASETS = {"black": black}
'''


def test_all_sets_are_described():
    sets = available()
    assert {"fashion-mnist-12k", "fashion-mnist", "cifar10", "cifar100", "folder:PATH"} <= set(sets)
    assert all(sets.values())


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("cifr100", "'cifar100'"), ("fashion_mnist", "'fashion-mnist'"), ("foldr:x", "known|mean")],
)
def test_unknown_name_names_the_nearest(name, nearest):
    with pytest.raises(InputError, match=nearest):
        load(name)


def test_a_data_set_is_one_new_file(tmp_path, monkeypatch):
    (tmp_path / "one_file_set.py").write_text(FAMILY)
    monkeypatch.setattr(data, "__path__", [*data.__path__, str(tmp_path)])
    try:
        assert available()["black"] == "Black squares."
        assert load("black").num_classes == 2
        assert load("black", image_size=16).image_size == 16
    finally:
        sys.modules.pop("cmkd.data.one_file_set", None)


def test_image_size_must_be_positive():
    with pytest.raises(InputError, match="image_size is 0"):
        load("fashion-mnist-12k", image_size=0)

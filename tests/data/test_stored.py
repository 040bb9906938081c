import logging
import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image

from cmkd.data import Loader, load, split
from cmkd.data.stored import PackedStrings
from cmkd.errors import InputError

STATISTICS = {"mean": (0.0,) * 3, "std": (1.0,) * 3}


@pytest.fixture
def shades(tmp_path):
    """Two classes of ten images; the grey of each is its own."""
    for label in range(2):
        folder = tmp_path / "shades" / str(label)
        folder.mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (9, 9), (label * 100 + number * 10,) * 3).save(folder / f"{number}.png")
    return tmp_path / "shades"


def train_part(folder, *, bad=(), **options):
    train = load(f"folder:{folder}", image_size=8, bad_images="skip", **options).train
    for index in bad:
        Path(train.paths[index]).write_bytes(b"\x89PNG")
    return train


def greys(images, indices):
    return images.read(indices)[:, 0, 4, 4].tolist()


def test_bad_image_is_replaced_for_good_by_one_of_its_class(shades):
    whole = greys(train_part(shades), torch.arange(16))
    train = train_part(shades, bad=[3])
    now = greys(train, torch.arange(16))
    assert now[3] in whole[:8]
    assert now[:3] + now[4:] == whole[:3] + whole[4:]
    assert greys(train, torch.tensor([3, 3])) == [now[3]] * 2
    bad = train.take_bad()
    assert list(bad) == [3]
    assert bad[3].startswith(train.paths[3])
    assert train.take_bad() == {}


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_order_and_resume_stay_exact_and_every_bad_image_is_named(shades, caplog, workers):
    train = train_part(shades, bad=[3, 12])
    loader = Loader(
        train, batch_size=4, shuffle=True, workers=workers, augment="resized_crop_flip", **STATISTICS
    )
    with caplog.at_level(logging.WARNING, logger="cmkd"):
        whole = list(loader.epoch(1))
    assert torch.equal(torch.cat([batch.indices for batch in whole]).sort().values, torch.arange(16))
    assert all(torch.equal(batch.targets, train.targets[batch.indices]) for batch in whole)
    assert sorted(loader.bad_images) == [3, 12]
    named = [record.getMessage() for record in caplog.records]
    assert len(named) == 2
    assert all(any(train.paths[index] in message for message in named) for index in (3, 12))
    assert "(2 so far)" in named[1]
    for one, other in zip(whole[2:], loader.epoch(1, start=2), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.indices, other.indices)


def test_bad_training_image_is_not_replaced_by_one_that_is_held_out(shades):
    train = train_part(shades)
    kept, held_out = split(train.targets, 0.5, seed=0)
    forbidden = set(greys(train, held_out))
    train_part(shades, bad=kept[:3].tolist())
    for batch in Loader(train, indices=kept, batch_size=8, workers=0, **STATISTICS).epoch(0):
        shown = (batch.images[:, 0, 4, 4] * 255).round().int().tolist()
        assert not set(shown) & forbidden


def test_class_without_a_readable_image_is_an_error(shades):
    train = train_part(shades, bad=range(8))
    with pytest.raises(
        InputError, match=r"neither .*0/.*\.png can be read nor any of the images of its class"
    ):
        train.read(torch.tensor([2]))


def test_skip_and_fail_are_all_there_is(shades):
    with pytest.raises(InputError, match="bad_images is 'ignore'; give 'fail' or 'skip'"):
        load(f"folder:{shades}", bad_images="ignore")


def test_packed_strings_are_a_sequence():
    strings = ["a", "", "päth/ü.png", "b" * 1000]
    packed = PackedStrings(iter(strings))
    assert list(packed) == strings
    assert packed[-1] == strings[-1]
    assert packed[1:3] == strings[1:3]
    assert len(pickle.dumps(packed)) < 1300
    with pytest.raises(IndexError):
        packed[4]

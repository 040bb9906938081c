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


def greys(images, indices, pool=None, crops=lambda indices: None):
    pool = torch.arange(len(images)) if pool is None else pool
    reading = images.read_or_replace(indices, crops, pool)
    return reading.pixels[:, 0, 4, 4].tolist(), reading


def test_bad_image_is_replaced_by_one_of_its_class(shades):
    whole, reading = greys(train_part(shades), torch.arange(16))
    assert reading.indices is None
    assert reading.bad == {}
    train = train_part(shades, bad=[3])
    now, reading = greys(train, torch.arange(16))
    other = int(reading.indices[3])
    assert other in {0, 1, 2, 4, 5, 6, 7}
    assert now == [*whole[:3], whole[other], *whole[4:]]
    assert reading.indices.tolist() == [*range(3), other, *range(4, 16)]
    assert list(reading.bad) == [3]
    assert reading.bad[3].startswith(train.paths[3])
    assert greys(train, torch.tensor([3, 3]))[0] == [whole[other]] * 2


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_stays_exact_and_every_bad_image_is_named(shades, caplog, workers):
    train = train_part(shades, bad=[3, 12])
    options = {"batch_size": 4, "workers": workers, "augment": "resized_crop_flip", **STATISTICS}
    loader = Loader(train, shuffle=True, **options)
    with caplog.at_level(logging.WARNING, logger="cmkd"):
        whole = list(loader.epoch(1))
    assert [len(batch.indices) for batch in whole] == [4] * 4
    assert set(torch.cat([batch.indices for batch in whole]).tolist()) == set(range(16)) - {3, 12}
    assert all(torch.equal(batch.targets, train.targets[batch.indices]) for batch in whole)
    assert sorted(loader.bad_images) == [3, 12]
    named = [record.getMessage() for record in caplog.records]
    assert len(named) == 2
    assert all(any(train.paths[index] in message for message in named) for index in (3, 12))
    assert "(2 so far)" in named[1]
    for one, other in zip(whole[2:], loader.epoch(1, start=2), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.indices, other.indices)
    # What a batch shows is what a cache that read the images by those indices has seen.
    for batch in whole:
        (alone,) = Loader(train, indices=batch.indices, **options).epoch(1)
        assert torch.equal(alone.images, batch.images)


def test_bad_training_image_is_not_replaced_by_one_that_is_held_out(shades):
    kept, held_out = split(train_part(shades).targets, 0.5, seed=0)
    train = train_part(shades, bad=kept[:3].tolist())
    for batch in Loader(train, indices=kept, batch_size=8, workers=0, **STATISTICS).epoch(0):
        assert not set(batch.indices.tolist()) & set(held_out.tolist())
        assert not set(batch.indices.tolist()) & set(kept[:3].tolist())


def test_class_without_a_readable_image_borrows_from_another(shades):
    train = train_part(shades, bad=range(8))
    _, reading = greys(train, torch.tensor([2]))
    assert train.targets[reading.indices].tolist() == [1]
    assert sorted(reading.bad) == list(range(8))


def test_nothing_readable_is_an_error(shades):
    train = train_part(shades, bad=range(16))
    with pytest.raises(InputError, match=r"the image .*0/.*\.png: .*Nor can any other be read"):
        greys(train, torch.tensor([2]))


def test_fail_names_the_image_although_others_could_stand_in(shades):
    train_part(shades, bad=[5])
    with pytest.raises(InputError, match="cannot read the image"):
        load(f"folder:{shades}", image_size=8)


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

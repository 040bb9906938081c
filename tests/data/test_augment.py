import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cmkd.data.augment import augment, crop_box, crop_draws, require_known, resized_crop
from cmkd.data.random import Stream, uniform
from cmkd.errors import InputError


@pytest.fixture
def images():
    return torch.randint(
        1, 256, (200, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def shifted(image, top, left):
    """Image whose pixel (y, x) is the original's (y + top, x + left), black outside."""
    result = torch.zeros_like(image)
    height, width = image.shape[-2:]
    for y in range(height):
        for x in range(width):
            if 0 <= y + top < height and 0 <= x + left < width:
                result[:, y, x] = image[:, y + top, x + left]
    return result


def test_none_is_the_image_itself(images):
    assert augment(images, torch.arange(200), name="none", seed=0, view=0) is images


def test_flip_mirrors_about_half(images):
    result = augment(images, torch.arange(200), name="flip", seed=0, view=0)
    mirrored = (result == images.flip(3)).flatten(1).all(1)
    kept = (result == images).flatten(1).all(1)
    assert torch.equal(mirrored, ~kept)
    assert 70 < mirrored.sum() < 130  # 4 standard deviations of a fair coin


def test_crop_flip_equals_the_definition_pixel_by_pixel(images):
    indices = torch.arange(200, 206)
    result = augment(images[:6], indices, name="crop_flip", seed=3, view=5)
    draws = {
        stream: uniform(indices, seed=3, view=5, streams=[stream])[0].tolist()
        for stream in (Stream.FLIP, Stream.TOP, Stream.LEFT)
    }
    for i in range(6):
        top, left = (
            int(draws[stream][i] * 5) - 2 for stream in (Stream.TOP, Stream.LEFT)
        )  # 16 // 8 = 2 pixels
        expected = shifted(images[i], top, left)
        assert torch.equal(result[i], expected.flip(2) if draws[Stream.FLIP][i] < 0.5 else expected)


def test_every_shift_occurs(images):
    image = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    image[0, 0, 8, 8] = 1
    result = augment(image.expand(1000, 1, 16, 16), torch.arange(1000), name="crop_flip", seed=0, view=0)
    places = {tuple(place) for place in result[:, 0].nonzero()[:, 1:].tolist()}
    rows, columns = (sorted({place[axis] for place in places}) for axis in (0, 1))
    assert rows == [6, 7, 8, 9, 10]
    assert columns == [5, 6, 7, 8, 9, 10]  # mirrored, column 8 is column 7
    assert len(places) == 5 * 6


@pytest.mark.parametrize("name", ["flip", "crop_flip"])
def test_pixels_depend_on_seed_index_and_view_alone(images, name):
    indices = torch.arange(200)
    whole = augment(images, indices, name=name, seed=1, view=2)
    some = torch.tensor([150, 3, 77])
    assert torch.equal(augment(images[some], some, name=name, seed=1, view=2), whole[some])
    for seed, view in ((1, 3), (2, 2)):
        assert not torch.equal(augment(images, indices, name=name, seed=seed, view=view), whole)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(0, 1, exclude_max=True), min_size=4, max_size=4),
    st.integers(1, 400),
    st.integers(1, 400),
)
def test_crop_box_lies_in_the_image(draws, height, width):
    top, left, box_height, box_width = crop_box(torch.tensor(draws, dtype=torch.float64), height, width)
    assert 0 <= top <= top + box_height <= height
    assert 0 <= left <= left + box_width <= width
    assert box_height > 0
    assert box_width > 0


@pytest.mark.parametrize(
    ("draws", "expected"),
    [
        # 8 % of 100 x 100 as a square: the side is sqrt(800) = 28.3, at the middle of the 72 free places
        ((0.0, 0.5, 0.5, 0.0), (36, 0, 28, 28)),
        # 54 % at 3/4: height sqrt(5400 * 4/3) = 84.9, width sqrt(5400 * 3/4) = 63.6
        ((0.5, 0.0, 0.0, 0.0), (0, 0, 85, 64)),
    ],
)
def test_crop_box_by_hand(draws, expected):
    assert crop_box(torch.tensor(draws), 100, 100) == expected


def test_crop_draws_are_independent_columns():
    draws = crop_draws(torch.arange(5000), seed=0, view=0)
    off_diagonal = np.corrcoef(draws.numpy().T) - np.eye(4)
    assert abs(off_diagonal).max() < 4 / 5000**0.5


def test_resized_crop_is_pillows():
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    draws = torch.tensor([0.7, 0.4, 0.3, 0.9])
    top, left, height, width = crop_box(draws, 40, 60)
    cut = Image.fromarray(image.permute(1, 2, 0).numpy()).crop((left, top, left + width, top + height))
    expected = torch.from_numpy(np.array(cut.resize((20, 20), Image.Resampling.BILINEAR))).permute(2, 0, 1)
    assert (resized_crop(image, draws, size=20).int() - expected).abs().max() <= 1  # rounding


def test_unknown_name():
    with pytest.raises(InputError, match="'crop_flip'"):
        require_known("crop-flip")

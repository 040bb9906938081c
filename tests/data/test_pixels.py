"""A picture from anywhere gets what a loader gives to a network."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from cmkd.data import ImageData, Loader, TensorImages, load
from cmkd.data.pixels import picture_levels, scale_and_shift

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)


def png(pixels):
    """The bytes of a file with these pixels, `(H, W)` or `(H, W, 3)`."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def normalised(levels):
    scale, shift = scale_and_shift(MEAN, STD)
    return levels * scale + shift


@pytest.mark.parametrize("size", [20, 31])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_of_a_set_in_memory_is_what_its_loader_gives(size, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, channels), dtype=np.uint8)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    images = TensorImages(tensor, torch.zeros(1))
    loader = Loader(images, mean=MEAN, std=STD, batch_size=1, image_size=size)
    (batch,) = loader.epoch(0)
    content = png(pixels.squeeze())
    levels = picture_levels(content, size=size, framing="whole", channels=channels)
    assert torch.equal(normalised(levels)[0], batch.images[0])


def test_a_picture_on_disk_is_what_its_loader_gives(tmp_path):
    generator = np.random.default_rng(1)
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            file = tmp_path / part / name / "1.jpg"
            Image.fromarray(generator.integers(0, 256, (90, 70, 3), dtype=np.uint8)).save(file, quality=90)
    data = load(f"folder:{tmp_path}", image_size=32)
    assert (data.framing, data.channels) == ("centre", 3)
    loader = Loader(data.test, mean=MEAN, std=STD, batch_size=2, image_size=32, workers=0)
    (batch,) = loader.epoch(0)
    content = (tmp_path / "test/b/1.jpg").read_bytes()
    levels = picture_levels(content, size=32, framing="centre", channels=3)
    assert torch.equal(normalised(levels)[0], batch.images[1])


def test_colours_become_grey_as_pillow_makes_them():
    pixels = np.random.default_rng(2).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    expected = np.array(Image.fromarray(pixels).convert("L"))
    levels = picture_levels(png(pixels), size=40, framing="whole", channels=1)
    assert np.array_equal(levels.numpy(), np.stack([expected] * 3))


def test_a_set_says_whether_it_is_grey():
    data = load("fashion-mnist-12k")
    assert (data.channels, data.framing) == (1, "whole")
    colour = TensorImages(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.arange(2))
    assert ImageData("c", ("a", "b"), colour, colour, MEAN, STD, 8, "none").channels == 3

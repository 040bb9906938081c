"""Corruptions against NumPy, SciPy, Pillow and colorsys, and what has to hold for each of them."""

import colorsys
import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
from PIL import Image

from cmkd.errors import InputError
from cmkd.evaluation.corruptions import GROUPS, NAMES, corrupt
from cmkd.evaluation.corruptions.blur import disk, smear
from cmkd.evaluation.corruptions.draws import Draws
from cmkd.evaluation.corruptions.parameters import CIFAR_C, IMAGENET_C, table_for
from cmkd.evaluation.corruptions.sampling import along_both, box_matrix, gaussian_matrix, zoom_matrix
from cmkd.evaluation.corruptions.weather import plasma


@pytest.fixture(scope="module")
def images():
    generator = np.random.default_rng(0)
    smooth = scipy.ndimage.gaussian_filter(generator.random((6, 3, 32, 32)), (0, 0, 2, 2))
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return torch.tensor(smooth * 255).round().to(torch.uint8)


INDICES = torch.tensor([4, 0, 17, 23, 5, 99])


def test_there_are_fifteen_with_five_strengths_each():
    assert len(NAMES) == 15
    assert sum(map(len, GROUPS.values())) == 15
    assert list(CIFAR_C) == list(IMAGENET_C) == list(NAMES)
    assert {len(each) for table in (CIFAR_C, IMAGENET_C) for each in table.values()} == {5}
    assert [table_for(size)[0] for size in (28, 32, 64, 96, 224)] == ["CIFAR-10-C"] * 3 + ["ImageNet-C"] * 2


@pytest.mark.parametrize("name", NAMES)
def test_the_same_image_is_corrupted_alike_in_any_batch(name, images):
    whole = corrupt(images, INDICES, name=name, severity=4, seed=3)
    assert whole.dtype == torch.uint8
    assert whole.shape == images.shape
    parts = [corrupt(images[[at]], INDICES[[at]], name=name, severity=4, seed=3) for at in (5, 2)]
    # A sum in another order may be rounded to the next level.
    assert (torch.cat(parts).int() - whole[[5, 2]].int()).abs().max() <= 1
    assert torch.equal(whole, corrupt(images, INDICES, name=name, severity=4, seed=3))
    random = name not in (
        "defocus_blur",
        "zoom_blur",
        "brightness",
        "contrast",
        "pixelate",
        "jpeg_compression",
    )
    for seed, indices in ((4, INDICES), (3, INDICES + 1)):
        other = corrupt(images, indices, name=name, severity=4, seed=seed)
        assert torch.equal(other, whole) != random


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [28, 96])
def test_grey_images_stay_grey_and_change(name, size):
    grey = torch.arange(2 * size * size).view(2, 1, size, size).remainder(251).to(torch.uint8)
    for severity in (1, 5):
        found = corrupt(grey, torch.arange(2), name=name, severity=severity)
        assert found.shape == grey.shape
        assert not torch.equal(found, grey) or (name, severity) == ("defocus_blur", 1)


@pytest.mark.parametrize("name", NAMES)
def test_black_and_white_images_are_no_trouble(name):
    flat = torch.tensor([0, 255]).view(2, 1, 1, 1).expand(2, 3, 32, 32).to(torch.uint8).contiguous()
    found = corrupt(flat, torch.arange(2), name=name, severity=5).double().mean((1, 2, 3))
    assert found[0] <= found[1]
    if name in (*GROUPS["blur"], "contrast", "elastic_transform", "pixelate", "jpeg_compression"):
        assert found.tolist() == pytest.approx([0, 255], abs=1)  # JPEG is a level off


def test_noise_is_distributed_as_it_is_said_to_be():
    flat, indices = torch.full((120, 1, 32, 32), 128, dtype=torch.uint8), torch.arange(120)

    def values(name, severity):
        return corrupt(flat, indices, name=name, severity=severity).double() / 255

    gauss = values("gaussian_noise", 5)
    assert gauss.mean().item() == pytest.approx(128 / 255, abs=1e-3)
    assert gauss.std().item() == pytest.approx(0.10, rel=0.01)
    photons = (values("shot_noise", 5) * 50).round().long().flatten().bincount(minlength=60).double().numpy()
    theirs = scipy.stats.poisson(50 * 128 / 255).pmf(np.arange(len(photons)))
    # 50 photons and all above are white. Half the sum of differences: chance alone makes 0.005 of it.
    assert 0.5 * np.abs(photons[:50] / photons.sum() - theirs[:50]).sum() < 0.01
    salt = values("impulse_noise", 5)
    assert (salt == 0).double().mean().item() == pytest.approx(0.035, rel=0.05)
    assert (salt == 1).double().mean().item() == pytest.approx(0.035, rel=0.05)
    # One image's noise has nothing to do with the next one's.
    rows = gauss.flatten(1).numpy()
    assert abs(np.corrcoef(rows)[0, 1:]).max() < 0.1


def test_normal_numbers_pass_a_test_and_have_no_infinity():
    drawn = Draws(torch.arange(200), 0, 0).normal(0, 100).numpy().ravel()
    assert np.isfinite(drawn).all()
    assert scipy.stats.kstest(drawn, "norm").pvalue > 0.01
    assert not np.array_equal(drawn, Draws(torch.arange(200), 0, 0).normal(1, 100).numpy().ravel())


@pytest.mark.parametrize(
    ("sigma", "truncate", "mode"), [(0.4, 4, "nearest"), (1.92, 3, "reflect"), (40, 3, "reflect")]
)
def test_the_gaussian_filter_is_scipys(sigma, truncate, mode):
    image = np.random.default_rng(0).random((20, 20))
    ours = along_both(
        gaussian_matrix(20, sigma, truncate=truncate, reflect=mode == "reflect"), torch.tensor(image)
    )
    theirs = scipy.ndimage.gaussian_filter(image, sigma, truncate=truncate, mode=mode)
    np.testing.assert_allclose(ours, theirs, atol=1e-10)


@pytest.mark.parametrize("size", [28, 32, 224])
@pytest.mark.parametrize("factor", [1.0, 1.01, 1.13, 1.25, 2.25, 4.5])
def test_the_zoom_is_scipys(size, factor):
    image = np.random.default_rng(0).random((size, size))
    kept = math.ceil(size / factor)
    top = (size - kept) // 2
    zoomed = scipy.ndimage.zoom(image[top : top + kept, top : top + kept], factor, order=1)
    trim = (zoomed.shape[0] - size) // 2
    theirs = zoomed[trim : trim + size, trim : trim + size]
    np.testing.assert_allclose(along_both(zoom_matrix(size, factor), torch.tensor(image)), theirs, atol=1e-9)


@pytest.mark.parametrize("small", [30, 20, 13, 7])
def test_the_box_filter_is_pillows(small, images):
    image = images[0, 0].numpy()
    there = Image.fromarray(image).resize((small, small), Image.BOX)
    ours = along_both(box_matrix(32, small), images[0, 0].double())
    assert np.abs(ours.numpy() - np.asarray(there)).max() <= 1  # it rounds after the rows, and again
    back = along_both(box_matrix(small, 32), torch.tensor(np.asarray(there)).double())
    assert np.abs(back.numpy() - np.asarray(there.resize((32, 32), Image.BOX))).max() <= 1


def test_pixels_and_compression_are_pillows(images):
    there = Image.fromarray(images[0].permute(1, 2, 0).numpy())
    small = there.resize((20, 20), Image.BOX).resize((32, 32), Image.BOX)
    ours = corrupt(images, INDICES, name="pixelate", severity=5)[0].permute(1, 2, 0).int().numpy()
    assert np.abs(ours - np.asarray(small).astype(int)).max() <= 2


def test_brightness_is_a_step_of_the_value(images):
    ours = corrupt(images, INDICES, name="brightness", severity=3)[1].permute(1, 2, 0)
    for at in ((0, 0), (7, 9), (31, 31)):
        hue, saturation, value = colorsys.rgb_to_hsv(*(images[1].permute(1, 2, 0)[at] / 255).tolist())
        expected = np.array(colorsys.hsv_to_rgb(hue, saturation, min(value + 0.15, 1))) * 255
        np.testing.assert_allclose(ours[at], expected, atol=0.51)


def test_contrast_by_hand():
    image = torch.tensor([[[[0, 200], [100, 100]]]], dtype=torch.uint8)
    # 100 is the mean; at severity 2 half of the distance is left
    assert corrupt(image, torch.tensor([0]), name="contrast", severity=2).flatten().tolist() == [
        50,
        150,
        100,
        100,
    ]


def test_a_disk_is_filled_evenly():
    kernel = disk(6, 0.01)
    assert kernel.sum().item() == pytest.approx(1)
    inside = sum(x * x + y * y <= 36 for x in range(-6, 7) for y in range(-6, 7))
    assert (kernel > 1e-9).sum().item() == inside
    assert kernel.max().item() == pytest.approx(1 / inside)


def test_a_point_is_smeared_along_its_line():
    point = torch.zeros(2, 1, 21, 21, dtype=torch.float64)
    point[:, 0, 10, 10] = 1
    level, steep = smear(point, torch.tensor([0.0, math.pi / 4]), radius=6, sigma=2.0)[:, 0]
    weights = np.exp(-0.5 * (np.arange(10) / 2) ** 2)
    np.testing.assert_allclose(level[10, 1:11].flip(0), weights / weights.sum(), atol=1e-4)
    assert level[9].sum() == level[11].sum() == 0
    assert steep.diagonal().sum().item() == pytest.approx(1)


def test_glass_takes_values_from_above_and_left(images):
    column = torch.arange(32).to(torch.uint8) * 7
    ramp = (column[:, None] // 2 + column // 2).expand(1, 1, 32, 32)
    found = corrupt(ramp, torch.tensor([0]), name="glass_blur", severity=1)
    moved = (ramp.int() - found.int())[0, 0]
    assert moved[:2].abs().max() <= 1
    assert moved[:, :2].abs().max() <= 1
    # 0, 3.5 or 7 less, each direction by chance: 3.5 on average
    assert -1 <= moved.min() <= moved.max() <= 8
    assert moved[2:, 2:].double().mean().item() == pytest.approx(3.5, abs=0.5)


def test_glass_is_the_published_loop_over_pixels(images):
    """With its assignment of two views of one array, which copies where it means to swap."""
    from cmkd.evaluation.corruptions.blur import glass_blur

    draws = Draws(INDICES, 0, 0)
    ours = glass_blur(images.double() / 255, draws, (0.0, 1, 2))
    for number in range(len(INDICES)):
        x = images[number].permute(1, 2, 0).numpy().copy()
        for turn in range(2):
            shifts = (draws.uniform(turn, 2, 32, 32)[number] * 2).long() - 1
            for h in range(31, 1, -1):
                for w in range(31, 1, -1):
                    down, right = shifts[:, h, w].tolist()
                    x[h, w], x[h + down, w + right] = x[h + down, w + right], x[h, w]
        np.testing.assert_allclose(ours[number].permute(1, 2, 0) * 255, x, atol=1e-6)


def test_the_factors_of_zoom_are_those_of_numpys_ranges():
    for table, ends in (
        (CIFAR_C, ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01))),
        (IMAGENET_C, ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))),
    ):
        # Rounding adds a factor to some of them.
        assert table["zoom_blur"] == tuple((len(np.arange(1, end, step)), step) for end, step in ends)


def test_elastic_shifts_are_the_smooth_field_that_scipy_makes():
    """With the points at rest, the result is SciPy's resampling by SciPy's smoothed field."""
    from cmkd.evaluation.corruptions.digital import elastic_transform

    draws = Draws(torch.tensor([3]), 0, 0)
    image = torch.tensor(scipy.ndimage.gaussian_filter(np.random.default_rng(0).random((32, 32)), 3))
    ours = elastic_transform(image[None, None], draws, (3.2, 1.28, 0.0))[0, 0]
    field = [
        scipy.ndimage.gaussian_filter(2 * each.double().numpy() - 1, 1.28, truncate=3) * 3.2
        for each in draws.uniform(1, 2, 32, 32)[0]
    ]
    rows, columns = np.mgrid[:32, :32]
    theirs = scipy.ndimage.map_coordinates(
        image, [rows + field[1], columns + field[0]], order=1, mode="mirror"
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_elastic_points_move_as_an_affine_map():
    from cmkd.evaluation.corruptions.digital import elastic_transform

    draws = Draws(torch.tensor([3]), 0, 0)
    before = np.array([[26, 26], [26, 6], [6, 6]], float)
    after = before + (2 * draws.uniform(0, 3, 2)[0].double().numpy() - 1) * 2.5
    for point, moved in zip(before, after, strict=True):
        image = torch.tensor(np.exp(-((np.mgrid[:32, :32][::-1].T - point) ** 2).sum(-1).T / 4))
        found = elastic_transform(image[None, None], draws, (0, 0, 2.5))[0, 0].numpy()
        mass = [(found * grid).sum() / found.sum() for grid in np.mgrid[:32, :32][::-1]]
        np.testing.assert_allclose(mass, moved, atol=0.35)  # a spot that is not quite whole


@pytest.mark.parametrize("size", [28, 32])
def test_plasma_is_rough_at_small_decay(size):
    draws = Draws(torch.arange(8), 0, 0)
    smooth, rough = (plasma(draws, 0, size, decay=decay) for decay in (3.0, 1.4))
    assert smooth.shape == (8, size, size)
    assert 0 <= smooth.min() <= smooth.max() <= 1
    assert 2 * smooth.diff(dim=1).abs().mean() < rough.diff(dim=1).abs().mean()


@pytest.mark.parametrize(
    "name", ["gaussian_noise", "impulse_noise", "zoom_blur", "fog", "contrast", "pixelate"]
)
def test_a_higher_severity_changes_more(name, images):
    changes = [
        (corrupt(images, INDICES, name=name, severity=each).int() - images.int()).abs().double().mean()
        for each in range(1, 6)
    ]
    assert changes == sorted(changes)


def test_what_cannot_be_is_refused(images):
    with pytest.raises(InputError, match="did you mean 'fog'"):
        corrupt(images, INDICES, name="fogg", severity=1)
    with pytest.raises(InputError, match="severity is 6"):
        corrupt(images, INDICES, name="fog", severity=6)
    with pytest.raises(InputError, match="expected uint8"):
        corrupt(images.float(), INDICES, name="fog", severity=1)

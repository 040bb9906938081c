"""Hashes that change with what decides the pixels, and with nothing else."""

import hashlib
import os
import shutil

import pytest
import torch
from PIL import Image

from cmkd.data import AUGMENTATIONS, TensorImages, decoding, load
from cmkd.data import augment as augment_module
from cmkd.data.augment import augment, crop_draws
from cmkd.data.fingerprint import augmentation_hash, fingerprint


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (30, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return TensorImages(pixels, torch.arange(30) % 3)


def changed_pixel(pixels, targets):
    pixels = pixels.clone()
    pixels[17, 2, 5, 3] ^= 1
    return pixels, targets


def changed_target(pixels, targets):
    targets = targets.clone()
    targets[4] = 0
    return pixels, targets


def swapped_in_a_class(pixels, targets):
    order = torch.arange(30)
    order[[0, 3]] = order[[3, 0]]
    return pixels[order], targets[order]


@pytest.mark.parametrize(
    "change",
    [
        changed_pixel,
        changed_target,
        swapped_in_a_class,
        lambda pixels, targets: (pixels[:29], targets[:29]),
        lambda pixels, targets: (pixels.view(30, 3, 4, 16), targets),
    ],
    ids=["pixel", "target", "order", "split", "shape"],
)
def test_other_images_in_memory(images, change):
    other = TensorImages(*change(images.images, images.targets))
    assert fingerprint(other) != fingerprint(images)
    assert fingerprint(TensorImages(images.images.clone(), images.targets)) == fingerprint(images)


@pytest.fixture
def folder(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for index in range(10):
            Image.new("RGB", (8 + index, 8), (index, 0, 0)).save(tmp_path / "pets" / name / f"{index}.png")
    return tmp_path / "pets"


def of_folder(folder):
    return fingerprint(load(f"folder:{folder}", image_size=16).train)


def test_a_folder_that_was_moved_is_the_same(folder, tmp_path):
    before = of_folder(folder)
    shutil.copytree(folder, tmp_path / "elsewhere" / "animals")
    assert of_folder(tmp_path / "elsewhere" / "animals") == before


def test_another_version_of_the_decoding(folder, monkeypatch):
    before = of_folder(folder)
    monkeypatch.setattr(decoding, "VERSION", decoding.VERSION + 1)
    assert of_folder(folder) != before


def test_names_that_are_not_utf8(folder):
    before = of_folder(folder)
    (folder / "dog/3.png").rename(folder / "dog" / os.fsdecode(b"caf\xe9.png"))
    assert of_folder(folder) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "dog/3.png").rename(folder / "dog/30.png"),
        lambda folder: (folder / "dog/3.png").rename(folder / "cat/30.png"),
        lambda folder: (folder / "dog").rename(folder / "wolf"),
        lambda folder: Image.effect_noise((64, 64), 50).save(folder / "dog/1.png"),
        lambda folder: [(folder / name / "new.png").write_bytes((folder / "dog/1.png").read_bytes())
                        for name in ("cat", "dog")],
    ],
    ids=["name", "label", "class", "size", "more"],
)  # fmt: skip
def test_a_folder_that_was_changed(folder, change):
    before = of_folder(folder)
    change(folder)
    assert of_folder(folder) != before


def test_images_of_any_other_kind(images):
    class Others:
        def __init__(self, images):
            self.targets = images.targets
            self.read = images.read

        def __len__(self):
            return len(self.targets)

    before = fingerprint(Others(images))
    assert before == fingerprint(Others(images))
    assert before != fingerprint(Others(TensorImages(255 - images.images, images.targets)))


def test_the_augmentation_by_name_and_version(monkeypatch):
    before = {augmentation_hash(name) for name in AUGMENTATIONS}
    assert len(before) == len(AUGMENTATIONS)
    monkeypatch.setattr(augment_module, "VERSION", augment_module.VERSION + 1)
    assert not before & {augmentation_hash(name) for name in AUGMENTATIONS}


def test_pixels_of_this_version():
    """Whoever changes what is drawn sees this fail: then `augment.VERSION` has to be raised."""
    pixels = (torch.arange(16 * 3 * 16 * 16) % 251).to(torch.uint8).view(16, 3, 16, 16)
    indices = torch.arange(16) * 1000
    digest = hashlib.sha256()
    for name in ("flip", "crop_flip"):
        digest.update(augment(pixels, indices, name=name, seed=5, view=2).numpy().tobytes())
    digest.update((crop_draws(indices, seed=5, view=2) * 2**24).int().numpy().tobytes())
    assert (augment_module.VERSION, digest.hexdigest()[:16]) == (1, "23e6dd5ae419b593")

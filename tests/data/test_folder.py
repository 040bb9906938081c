import errno
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cmkd.data import Loader, load
from cmkd.data.augment import crop_box, crop_draws
from cmkd.data.decoding import decode
from cmkd.data.folder import FolderImages
from cmkd.data.stored import ReadOptions
from cmkd.errors import InputError


def write(path, *, size=(24, 20), colour=None, seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if colour is None:
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
    else:
        image = Image.new("RGB", size, colour)
    image.save(path, **options)
    return path


@pytest.fixture
def pets(tmp_path):
    for kind, colour in (("cat", "red"), ("dog", "blue")):
        for number in range(10):
            write(tmp_path / "pets" / kind / f"{number}.png", colour=colour)
    return tmp_path / "pets"


def test_class_folders_alone_get_a_fixed_test_part(pets):
    first, second = (load(f"folder:{pets}", image_size=16) for _ in range(2))
    assert first.classes == ("cat", "dog")
    assert torch.bincount(first.train.targets).tolist() == [8, 8]
    assert torch.bincount(first.test.targets).tolist() == [2, 2]
    assert not set(first.train.paths) & set(first.test.paths)
    assert list(first.test.paths) == list(second.test.paths)


@pytest.mark.parametrize("part", ["test", "val"])
def test_parts_of_their_own(tmp_path, part):
    for kind in ("cat", "dog"):
        write(tmp_path / "train" / kind / "nested" / "1.JPG", format="JPEG")
        write(tmp_path / part / kind / "2.webp")
    pets = load(f"folder:{tmp_path}", image_size=16)
    assert (len(pets.train), len(pets.test)) == (2, 2)
    assert all("nested" in path for path in pets.train.paths)


def test_train_may_be_a_class(tmp_path):
    for kind in ("train", "bus"):
        for number in range(2):
            write(tmp_path / kind / f"{number}.png")
    assert load(f"folder:{tmp_path}").classes == ("bus", "train")


def test_training_part_alone_is_split(tmp_path):
    for kind in ("cat", "dog"):
        for number in range(5):
            write(tmp_path / "train" / kind / f"{number}.png")
    pets = load(f"folder:{tmp_path}")
    assert pets.classes == ("cat", "dog")
    assert (len(pets.train), len(pets.test)) == (8, 2)


def test_reading_puts_the_colour_in_its_channel(pets):
    images = load(f"folder:{pets}", image_size=16).train
    pixels = images.read(torch.tensor([0, len(images) - 1]))
    assert pixels.shape == (2, 3, 16, 16)
    assert pixels.dtype == torch.uint8
    assert pixels[0].flatten(1).unique(dim=1).flatten().tolist() == [255, 0, 0]
    assert pixels[1].flatten(1).unique(dim=1).flatten().tolist() == [0, 0, 255]


def test_whole_image_is_the_centre_of_seven_eighths(tmp_path):
    # Shorter side 24 -> 16 for 14 pixels: one pixel of the result is 1.5 of the file; what lies outside the
    # central 14 / 16 of the height and the central square of the width is cut away.
    pixels = np.zeros((24, 48, 3), np.uint8)
    pixels[4:20, 16:32] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    images = FolderImages([str(tmp_path / "a.png")], torch.zeros(1), ReadOptions(image_size=14))
    read = images.read(torch.tensor([0]))
    assert read.shape == (1, 3, 14, 14)
    assert read[0, 0, 3:11, 3:11].min() == 255  # 4 / 1.5 - 1 = 1.67 and 20 / 1.5 - 1 = 12.33, blurred by 1
    assert read[0, 0, 0].max() == 0
    assert read[0, 0, :, 13].max() == 0


def test_random_crop_is_that_of_the_draws(tmp_path):
    path = write(tmp_path / "a.png", size=(60, 40))
    draws = crop_draws(torch.tensor([5]), seed=1, view=2)
    top, left, height, width = crop_box(draws[0], 40, 60)
    cut = Image.open(path).crop((left, top, left + width, top + height))
    expected = np.array(cut.resize((16, 16), Image.Resampling.BILINEAR))
    images = FolderImages([str(path)], torch.zeros(1), ReadOptions(image_size=16))
    read = images.read(torch.tensor([0]), draws)
    assert (read[0].permute(1, 2, 0).int() - torch.from_numpy(expected)).abs().max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_any_mode_becomes_rgb(tmp_path, mode):
    file = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new("RGB", (8, 6), "white").convert(mode).save(file)
    assert decode(file.read_bytes()).shape == (3, 6, 8)
    assert decode(file.read_bytes()).min() >= 254


def test_upright_as_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees to see it upright
    assert decode(write(tmp_path / "a.jpg", size=(24, 20), exif=exif).read_bytes()).shape == (3, 24, 20)


def test_same_batches_with_and_without_workers(pets):
    data = load(f"folder:{pets}", image_size=16)
    options = {"mean": data.mean, "std": data.std, "batch_size": 4, "shuffle": True, "augment": data.augment}
    here, there = (list(Loader(data.train, workers=workers, **options).epoch(1)) for workers in (0, 2))
    for first, second in zip(here, there, strict=True):
        assert torch.equal(first.images, second.images)
        assert torch.equal(first.targets, second.targets)
        assert torch.equal(first.targets, data.train.targets[first.indices])
    rest = list(Loader(data.train, workers=0, **options).epoch(1, start=3))
    assert torch.equal(rest[0].images, here[3].images)


def test_decoding_leaves_the_global_random_state_alone(pets):
    data = load(f"folder:{pets}", image_size=16)
    before = torch.get_rng_state()
    list(Loader(data.train, mean=data.mean, std=data.std, batch_size=8, workers=0).epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


def cut(file):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("name", ["bad.jpg", "bad.png", "bad.webp", "bad.bmp", "bad.tiff"])
def test_truncated_image_is_named_at_once(pets, name):
    cut(write(pets / "cat" / name, size=(60, 60)))
    with pytest.raises(
        InputError,
        match=rf"cannot read the image .*cat/{name}.*Replace or remove it, or take --bad_images skip",
    ):
        load(f"folder:{pets}")


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_file_that_is_no_image_is_named(pets, content):
    (pets / "dog" / "bad.jpg").write_bytes(content)
    with pytest.raises(InputError, match=r"dog/bad\.jpg"):
        load(f"folder:{pets}")


def test_image_with_something_after_its_end_is_fine(pets):
    file = write(pets / "cat" / "odd.jpg")
    file.write_bytes(file.read_bytes() + bytes(1000))
    assert load(f"folder:{pets}").num_classes == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_image_that_is_damaged_later_is_named_when_it_is_read(pets, workers):
    data = load(f"folder:{pets}", image_size=16)
    cut(pets / "cat" / data.train.paths[3].rpartition("/")[2])
    loader = Loader(data.train, mean=data.mean, std=data.std, batch_size=4, workers=workers)
    with pytest.raises(
        InputError,
        match=r"^cannot read the image .*\.png.*Replace or remove it, or take --bad_images skip\.$",
    ):
        list(loader.epoch(0))


def test_layouts_that_are_no_data_set(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        load(f"folder:{tmp_path / 'absent'}")
    with pytest.raises(InputError, match="has no class folders"):
        load(f"folder:{tmp_path}")
    write(tmp_path / "cat" / "1.png")
    with pytest.raises(InputError, match=r"one class folder \(cat\)"):
        load(f"folder:{tmp_path}")
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match=r"dog has no images"):
        load(f"folder:{tmp_path}")


def test_parts_with_different_classes(tmp_path):
    for kind in ("train/cat", "train/dog", "test/cat", "test/bird"):
        write(tmp_path / kind / "1.png")
    with pytest.raises(InputError, match="bird, dog only in one"):
        load(f"folder:{tmp_path}")


def test_hidden_files_and_folders_do_not_count(pets):
    (pets / ".cache").mkdir()
    (pets / ".git" / "objects").mkdir(parents=True)
    (pets / "cat" / "._1.png").write_bytes(b"what macOS leaves behind")
    assert load(f"folder:{pets}").classes == ("cat", "dog")


def test_a_folder_that_cannot_be_read(pets, monkeypatch):
    """Such as lost+found; the tests may run as somebody who can read all."""
    (pets / "lost+found").mkdir()
    iterdir = Path.iterdir

    def refuse(self):
        if self.name == "lost+found":
            raise PermissionError(errno.EACCES, "Permission denied")
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match=r"cannot read .*lost\+found: Permission denied; move it away"):
        load(f"folder:{pets}")


@pytest.mark.parametrize("parts", [("training", "validation"), ("test", "val"), ("train", "valid")])
def test_parts_under_other_names_are_no_classes(tmp_path, parts):
    for part in parts:
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / part / name / "0.png")
    with pytest.raises(InputError, match="holds folders itself"):
        load(f"folder:{tmp_path}")

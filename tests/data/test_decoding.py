import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

from cmkd.data.augment import crop_box, crop_draws
from cmkd.data.decoding import DamagedImage, decode, read_pixels


def scene(width, height, mode="RGB"):
    """Smooth colours with some edges, as in a photograph."""
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_jpeg_has_the_bits_of_pillow(mode, subsampling):
    content = encoded(scene(61, 47, mode), subsampling=subsampling)
    assert torch.equal(decode(content), pixels(Image.open(io.BytesIO(content)).convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "size",
    [
        (61, 47),  # at full size
        (640, 480),  # shrunk while it is decoded
        (1001, 777),  # likewise, with a rest
    ],
)
def test_crop_of_a_turned_image(orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(scene(*size), exif=exif, quality=95)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    draws = crop_draws(torch.tensor([3]), seed=0, view=0)[0]
    top, left, height, width = crop_box(draws, upright.height, upright.width)
    cut = upright.crop((left, top, left + width, top + height)).resize((24, 24), Image.Resampling.BILINEAR)
    difference = (read_pixels(content, 24, draws).int() - pixels(cut).int()).abs()
    assert difference.float().mean() < 1
    assert difference.max() <= 8


@pytest.mark.parametrize(("size", "most"), [((75, 50), 1), ((51, 160), 1), ((600, 400), 3), ((1001, 677), 3)])
def test_whole_image_is_resize_and_centre_crop_of_torchvision(size, most):
    content = encoded(scene(*size), quality=95)
    recipe = v2.Compose([v2.Resize(32, antialias=True), v2.CenterCrop(28)])
    expected = recipe(pixels(Image.open(io.BytesIO(content))))
    difference = (read_pixels(content, 28).int() - expected.int()).abs()
    assert difference.max() <= most


def test_large_jpeg_is_decoded_at_a_fraction(monkeypatch):
    content = encoded(scene(1024, 768))
    sizes = set()
    load = Image.Image.load
    monkeypatch.setattr(Image.Image, "load", lambda self: (sizes.add(self.size), load(self))[1])
    read_pixels(content, 28)  # 768 / 32 = 24 pixels per pixel: of an eighth there are still 3
    assert max(sizes) == (128, 96)


def test_sixteen_bit_grey_keeps_its_upper_bits():
    values = np.array([[0, 255, 256, 0x7FFF], [0x8000, 0xFF00, 0xFFFF, 1]], np.uint16)
    content = encoded(Image.fromarray(values), "PNG")
    assert decode(content)[0].tolist() == [[0, 0, 1, 127], [128, 255, 255, 0]]


def test_alpha_is_dropped():
    image = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert decode(encoded(image, "PNG"))[:, 0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"no image", "no image format that Pillow knows"),
        (encoded(scene(64, 64))[:700], "truncated"),
        (encoded(scene(64, 64), "PNG")[:700], "truncated"),
        (encoded(Image.new("F", (4, 4)), "TIFF"), "floating-point"),
    ],
)
def test_damage_is_described(content, reason):
    with pytest.raises(DamagedImage, match=reason):
        decode(content)
    with pytest.raises(DamagedImage, match=reason):
        read_pixels(content, 8)


DAMAGED = [b"Exif\0\0II*\0", b"Exif\0\0rubbish that is no header"]


@pytest.mark.parametrize("exif", DAMAGED)
@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"dpi": (72, 72)}), ("PNG", {}), ("WEBP", {})])
def test_damaged_exif_data_leaves_the_pixels(exif, kind, options):
    for image in (scene(61, 47), scene(640, 480, "L")):
        damaged, whole = encoded(image, kind, exif=exif, **options), encoded(image, kind, **options)
        assert exif.removeprefix(b"Exif\0\0") in damaged
        assert torch.equal(decode(damaged), decode(whole))
        assert torch.equal(read_pixels(damaged, 24), read_pixels(whole, 24))


def test_an_image_is_turned_though_another_tag_is_damaged():
    """Pillow's own function for it writes all tags anew, which fails where text is said to be a number."""
    turned, damaged = (0x0112, 3, 1, 6 << 16), (0x0131, 11, 1, 0)
    tags = b"".join(struct.pack(">HHII", *tag) for tag in (turned, damaged))
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + tags + bytes(4)
    expected = pixels(scene(61, 47).transpose(Image.Transpose.ROTATE_270))
    assert torch.equal(decode(encoded(scene(61, 47), "PNG", exif=exif)), expected)


def test_exif_data_behind_damaged_pixels():
    """To look for it Pillow decodes a PNG file."""
    with pytest.raises(DamagedImage):
        decode(encoded(scene(64, 64), "PNG")[:-40])

"""From the bytes of an image file to 8-bit RGB pixels of one size."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cmkd.data.augment import crop_box

if TYPE_CHECKING:
    from PIL import Image

#: To be raised with every change of the pixels that a file gives: stored logits of a teacher go with them.
VERSION = 2
CENTRE = 7 / 8
"""Part of the shorter side that is kept of a whole image: ImageNet's evaluation, 224 of 256 pixels."""

_ORIENTATION = 0x0112  # the EXIF tag
_SIDEWAYS = (5, 6, 7, 8)  # its values for which height and width change places
_TURNS = {  # and what brings an image upright
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_MIRRORED_ACROSS, _MIRRORED_DOWN = (2, 3, 6, 7), (3, 4, 7, 8)  # whose left, or top, was an end
_REDUCTIONS = (8, 4, 2)  # what a JPEG decoder can shrink by while it decodes
_SPARE = 2  # pixels per pixel of the result that it leaves to the resampling


class DamagedImage(Exception):
    """Bytes that are no whole image; the message says why, and whoever knows the name adds it."""


def decode(content: bytes) -> Tensor:
    """Decode a whole image of any format that Pillow knows, turned upright as its EXIF data says.

    Alpha is dropped and CMYK converted, as torchvision's ImageFolder does; of 16-bit grey the upper 8 bits
    are kept.

    Args:
        content: The file's bytes.

    Returns:
        uint8 `(3, H, W)`, channels last in memory.

    Raises:
        DamagedImage: The bytes are truncated or no image.
    """
    with _opened(content) as image:
        return _whole(image, content)


def read_pixels(content: bytes, size: int, draws: Tensor | None = None) -> Tensor:
    """Decode an image and bring it to one size.

    A JPEG that is at least four times larger than what is asked for is decoded at a half, a quarter or an
    eighth of its size, by the discrete cosine transform itself. At least twice the size of the result is left
    to the resampling that follows, so that the pixels differ from those of the full image by half a grey
    level or so.

    Args:
        content: The file's bytes.
        size: Side of the result in pixels.
        draws: The four uniform numbers of a random resized crop (see `augment.crop_draws`). None takes the
            centre, as ImageNet's evaluation does: the shorter side is scaled to 8/7 of `size`, and the middle
            is cut out.

    Returns:
        uint8 `(3, size, size)`, channels last in memory.

    Raises:
        DamagedImage: The bytes are truncated or no image.
    """
    from torchvision.transforms.v2 import functional as transforms

    with _opened(content) as image:
        height, width = _upright_size(image)
        if draws is None:
            box = (0, 0, height, width)
            scale = round(size / CENTRE) / min(height, width)
            scaled = (max(int(height * scale + 1e-6), size), max(int(width * scale + 1e-6), size))
        else:
            box, scaled = crop_box(draws, height, width), (size, size)
        return transforms.center_crop(_resampled(image, content, box, scaled), [size, size])


@contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata; whether the pixels can be had is all that matters here.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                yield image
    except UnidentifiedImageError as error:
        raise DamagedImage("no image format that Pillow knows" if content else "it is empty") from error
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DamagedImage(str(error)) from error
    except RuntimeError as error:  # torchvision's, with places in its source before the reason
        raise DamagedImage(str(error).rpartition(", ")[2]) from error


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Return height and width as they are once the image stands upright."""
    sideways = _orientation(image) in _SIDEWAYS
    return (image.width, image.height) if sideways else (image.height, image.width)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF tag; 1, for upright, where there is none that can be read: the pixels may be whole."""
    if image.format == "PNG":
        image.load()  # it may stand behind the pixels, whose damage is another matter
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception:  # what arbitrary bytes can make a parser raise
        return 1
    return value if value in _TURNS else 1


def _resampled(
    image: Image.Image, content: bytes, box: tuple[int, int, int, int], scaled: tuple[int, int]
) -> Tensor:
    """Cut a box (top, left, height, width) out of an undecoded image and scale it to (height, width)."""
    from PIL import Image
    from torchvision.transforms.v2 import functional as transforms

    top, left, height, width = box
    ratio = min(height / scaled[0], width / scaled[1])
    by = next((by for by in _REDUCTIONS if ratio >= _SPARE * by and image.format == "JPEG"), 1)
    if by == 1:
        cut = _whole(image, content)[:, top : top + height, left : left + width]
        return transforms.resize(cut, list(scaled), antialias=True)
    whole_height, whole_width = _upright_size(image)
    orientation = _orientation(image)
    # Pillow takes the largest fraction that is no smaller than asked for, on either side: ask for the floor.
    image.draft(None, (image.width // by, image.height // by))
    upright = _upright_rgb(image)
    # What `by` does not divide a side by is a whole pixel more at its end, which turning brings to the front.
    ahead = upright.width - whole_width / by if orientation in _MIRRORED_ACROSS else 0
    above = upright.height - whole_height / by if orientation in _MIRRORED_DOWN else 0
    right, bottom = ahead + (left + width) / by, above + (top + height) / by
    part = (ahead + left / by, above + top / by, min(right, upright.width), min(bottom, upright.height))
    return _tensor(upright.resize((scaled[1], scaled[0]), Image.Resampling.BILINEAR, box=part))


def _whole(image: Image.Image, content: bytes) -> Tensor:
    """Decode an image at its full size: uint8 `(3, H, W)`."""
    plain = image.mode in ("RGB", "L") and _orientation(image) == 1
    if image.format == "JPEG" and plain:
        from torchvision.io import ImageReadMode, decode_jpeg

        # The same bits as Pillow's, without its copies.
        return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)
    return _tensor(_upright_rgb(image))


def _upright_rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    image.load()
    turn = _TURNS.get(_orientation(image))
    if turn is not None:  # Pillow's own `exif_transpose` writes the EXIF data anew, which may not be possible
        image = image.transpose(Image.Transpose[turn])
    if image.mode == "F":
        raise ValueError("it has floating-point pixels, whose range nobody states")
    if image.mode.startswith("I"):
        # Pillow's own conversion cuts off at 255 and would leave a white image.
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        image = Image.fromarray(grey)
    return image if image.mode == "RGB" else image.convert("RGB")


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)

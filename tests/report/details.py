"""Details of a run as they are kept, with logits that the tests choose."""

import io
import json

import numpy as np
from PIL import Image


def picture(shade):
    """Return a small grey WebP."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(content, "WEBP", lossless=True)
    return content.getvalue()


def write_details(run, student, targets, *, teacher=None, classes=None, missing=None, meta=None, **arrays):
    """Write `details.npz` into a run folder without weights; the image at position i has the grey level i."""
    arrays |= {"student": np.asarray(student, np.float32), "targets": np.asarray(targets, np.int64)}
    meta = {
        "version": 1,
        "asked": len(targets),
        "of": 1000,
        "weights": "",
        "network": "resnet8",
        "classes": classes or [f"class {each}" for each in range(arrays["student"].shape[1])],
        "missing": missing or {},
        **(meta or {}),
    }
    if teacher is not None:
        arrays["teacher"] = np.asarray(teacher, np.float32)
        meta["teacher"] = {"network": "resnet20", "sha256": "ab"}
    arrays["indices"] = 10 * np.arange(len(targets))
    pictures = [picture(place % 256) for place in range(len(targets))]
    arrays["pictures"] = np.frombuffer(b"".join(pictures), np.uint8)
    arrays["picture_ends"] = np.cumsum([len(each) for each in pictures])
    np.savez_compressed(run / "details.npz", meta=np.array(json.dumps(meta)), **arrays)
    return run


def shade_of(picture):
    """Return the grey level of a picture: its image's position."""
    return Image.open(io.BytesIO(picture.content)).convert("L").getpixel((3, 3))

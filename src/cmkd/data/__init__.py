"""Data sets by name, and batches that are a pure function of (seed, index, view)."""

from cmkd.data.augment import AUGMENTATIONS
from cmkd.data.base import ImageData, Images, TensorImages, split
from cmkd.data.catalog import available, load
from cmkd.data.loader import Batch, Loader

__all__ = [
    "AUGMENTATIONS",
    "Batch",
    "ImageData",
    "Images",
    "Loader",
    "TensorImages",
    "available",
    "load",
    "split",
]

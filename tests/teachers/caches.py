"""Small caches of made-up logits: three shards a view, the last one short."""

import numpy as np
import torch

from cmkd.teachers.cache_format import Manifest
from cmkd.teachers.cache_writing import write_cache

SAMPLES, CLASSES, SHARD_ROWS = 20, 5, 8
IDENTITY = {
    "teacher": "ab" * 32,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "data": "made-up",
    "fingerprint": "cd" * 16,
    "samples": SAMPLES,
    "classes": CLASSES,
    "image_size": 8,
    "augment": "flip",
    "augment_hash": "ef" * 16,
    "augment_seed": 0,
    "precision": "fp32",
    "dtype": "float32",
}


def planned(**changes):
    return Manifest(identity={**IDENTITY, **changes}, teacher={"network": "net"}, shard_rows=SHARD_ROWS)


def logits(view):
    """Logits of all images in a view, from numpy's generator."""
    return np.random.default_rng(view).normal(size=(SAMPLES, CLASSES)).astype(np.float32)


def logits_of(view, indices):
    """The teacher as the writer sees it, in batches that do not end where the shards do."""
    for part in indices.split(3):
        yield torch.from_numpy(logits(view)[part.numpy()])


def write(path, *, views=1, source=logits_of, rank=0, world_size=1, **changes):
    return write_cache(path, planned(**changes), source, views=views, rank=rank, world_size=world_size)

"""Grids in processes of their own, as the command line starts them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cmkd.models import read_state_dict
from tests.bench.specs import write_spec

TESTS = Path(__file__).parents[1]

EPOCHS = 20

#: Two cells of eight steps in an epoch, with a checkpoint after every one.
GRID = {
    "options": {
        "data": "folder:pets",
        "image_size": 16,
        "workers": 0,
        "epochs": EPOCHS,
        "batch_size": 8,
        "validation": 0.2,
        "cpu": True,
        "checkpoint_seconds": 0,
    },
    "teachers": {"big": {"network": "tiny_networks:teacher", "weights": "random"}},
    "students": ["tiny_networks:student"],
    "methods": {"CE": {}, "KD": {}},
    "seeds": [0],
}


def prepare(root, **changes):
    """Write images and the grid's file."""
    noise = np.random.default_rng(3)
    for part, count in (("train", 20), ("test", 5)):
        for number in range(4):
            (root / "pets" / part / f"c{number}").mkdir(parents=True)
            for index in range(count):
                pixels = noise.integers(0, 128, (16, 16, 3)) + 30 * number
                Image.fromarray(pixels.astype(np.uint8)).save(root / f"pets/{part}/c{number}/{index}.png")
    write_spec(root, {**GRID, **changes})


def start(root, *options):
    """Start `cmkd bench` in a folder."""
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-m", "cmkd", "bench", "grid.yaml", "--out", "grid", *options],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition, process, seconds=300):
    """Wait until something holds, as long as a process is at work."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it takes too long"
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def rows(root):
    """Return how many epochs all cells have done."""
    return sum(len(file.read_text().splitlines()) for file in root.glob("grid/cells/**/metrics.jsonl"))


def alive(pid):
    """Whether a process is there, and no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid):
    """Return the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def assert_same(one, other, cells):
    """Compare cells of two grids: weights bit for bit, and scores."""
    files = sorted(file.relative_to(other) for file in other.glob("grid/cells/**/student.safetensors"))
    assert len(files) == cells
    for file in files:
        results = [json.loads((root / file).with_name("result.json").read_text()) for root in (one, other)]
        for part in ("test", "last_validation"):
            assert results[0][part] == results[1][part]
        first, second = read_state_dict(one / file), read_state_dict(other / file)
        assert first.keys() == second.keys()
        for key, value in first.items():
            assert torch.equal(value, second[key]), (file, key)

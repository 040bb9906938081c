"""Build the Fashion-MNIST part that lies inside the package, from the official idx files.

    python scripts/build_fashion_subset.py /usr/share/datasets/fashion-mnist

That folder is where Debian's package `dataset-fashion-mnist` puts them; the licence is kept beside the
result. The same files give the same bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from cmkd.data.torchvision_sets import read_idx

OUT = Path(__file__).resolve().parents[1] / "src/cmkd/data/assets/fashion_mnist_12k.npz"
PER_CLASS = {"train": 1000, "t10k": 200}
SEED = 20241009


def main() -> None:
    """Draw the subset and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder with the four idx(.gz) files")
    source = parser.parse_args().source
    generator = np.random.Generator(np.random.PCG64(SEED))
    arrays: dict[str, np.ndarray] = {}
    for official, part in (("train", "train"), ("t10k", "test")):
        images = read_idx(source, f"{official}-images-idx3-ubyte")
        targets = read_idx(source, f"{official}-labels-idx1-ubyte")
        chosen = [
            generator.permutation(np.flatnonzero(targets == label))[: PER_CLASS[official]]
            for label in range(10)
        ]
        indices = np.sort(np.concatenate(chosen))
        arrays |= {
            f"{part}_images": images[indices],
            f"{part}_targets": targets[indices],
            f"{part}_source_indices": indices.astype(np.uint16),
        }
    OUT.parent.mkdir(exist_ok=True)
    np.savez_compressed(OUT, **arrays)
    print(f"{OUT}: {OUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()

"""Read images from disk: how fast on one core, and how the memory grows with the set.

    python benchmarks/reading.py speed
    python benchmarks/reading.py memory

`speed` decodes, crops, mirrors and normalises synthetic photographs at 224 pixels with every reader of cmkd
and with torchvision's ImageFolder, its transforms and a DataLoader, in this process, in turns; images per
second of processor time. `memory` reads 70 batches in each of four epochs from tar shards of 10,000 and of a
million 8-pixel images (2 GB in a temporary folder, a few minutes), and prints the peak of fresh processes.
The results go to `results/reading/`.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from written import as_json, markdown_table

from cmkd import data as datasets
from cmkd.data import Loader

OUT = Path(__file__).parents[1] / "results" / "reading"
SIZES = {"500 x 375": (500, 375, 400), "1600 x 1200": (1600, 1200, 64), "4000 x 3000": (4000, 3000, 16)}
BATCH = 16


def photograph(width: int, height: int, seed: int) -> bytes:
    """Return a JPEG with the spectrum of a photograph: power falls with the square of the frequency."""
    generator = np.random.default_rng(seed)
    spectrum = np.fft.rfft2(generator.normal(size=(3, height, width)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width) * width)
    frequency[0, 0] = 1
    pixels = np.fft.irfft2(spectrum / frequency**1.1, (height, width))
    pixels = (pixels - pixels.mean()) / pixels.std() * 50 + 128
    return encoded(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0), "JPEG", quality=90)


def encoded(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    """Return an image file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def write_sets(root: Path, width: int, height: int, count: int) -> None:
    """Write the same images as class folders, as a shard and as parquet; two of them differ."""
    different = [photograph(width, height, seed) for seed in range(2)]
    images = [different[number % 2] for number in range(count)]
    for number, image in enumerate(images):
        for part in ("train", "val") if number < 2 else ("train",):
            file = root / "folder" / part / str(number % 2) / f"{number:05}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(image)
    (root / "wds").mkdir()
    for part, chosen in (("train", images), ("val", images[:2])):
        members = [(f"{n:05}.{ending}", content) for n, image in enumerate(chosen)
                   for ending, content in (("jpg", image), ("cls", str(n % 2).encode()))]  # fmt: skip
        (root / "wds" / f"{part}-0.tar").write_bytes(tar(members) + bytes(2 * tarfile.BLOCKSIZE))
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return
    (root / "hf").mkdir()
    for part, chosen in (("train", images), ("test", images[:2])):
        labels = [number % 2 for number in range(len(chosen))]
        rows = pyarrow.table({"image": chosen, "label": labels})
        parquet.write_table(rows, root / "hf" / f"{part}.parquet")


def tar(members: list[tuple[str, bytes]]) -> bytes:
    """Return a tar file's blocks without the end mark, so that they can be put one after the other."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        length = file.offset
    return buffer.getvalue()[:length]


def readers(root: Path) -> dict[str, Callable[[], Iterator[Any]]]:
    """Return one pass over the set for every contestant."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    recipe = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    plain = ImageFolder(str(root / "folder" / "train"), recipe)
    passes: dict[str, Callable[[], Iterator[Any]]] = {
        "ImageFolder": lambda: iter(torch.utils.data.DataLoader(plain, BATCH, shuffle=True))
    }
    for name in ("folder", "wds", "hf"):
        if (root / name).is_dir():
            data = datasets.load(f"{name}:{root / name}")
            loader = Loader(data.train, mean=data.mean, std=data.std, batch_size=BATCH, shuffle=True,
                            augment=data.augment, workers=0)  # fmt: skip
            passes[name] = lambda loader=loader: loader.epoch(0)  # type: ignore[misc]
    return passes


def speed(rounds: int, scale: float) -> dict[str, Any]:
    """Return the images per second of every reader, round by round."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    result: dict[str, Any] = {}
    for title, (width, height, count) in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            os.environ["XDG_CACHE_HOME"] = os.environ["HF_DATASETS_CACHE"] = folder
            number = max(int(count * scale), BATCH)
            write_sets(Path(folder), width, height, number)
            rates: dict[str, list[float]] = {}
            for turn in range(rounds + 1):
                for name, one_pass in readers(Path(folder)).items():
                    start = time.process_time()
                    for _ in one_pass():
                        pass
                    if turn:  # the first round imports and fills the disk cache
                        rates.setdefault(name, []).append(number / (time.process_time() - start))
        result[title] = rates
    return result


MEASURE = """
import itertools, re, sys
from cmkd.data import Loader, load
images = load("wds:" + sys.argv[1], image_size=8).train
loader = Loader(images, batch_size=128, shuffle=True, workers=0, mean=(0.,) * 3, std=(1.,) * 3)
print(len(images))
for epoch in range(4):
    list(itertools.islice(loader.epoch(epoch), 70))
    print(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
"""


def memory(images: int) -> dict[str, Any]:
    """Return the peak memory in megabytes after each of four epochs, for a small and a large set."""
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"XDG_CACHE_HOME": folder, "OMP_NUM_THREADS": "1"}
        pixels = np.random.default_rng(0).integers(0, 256, (256, 8, 8, 3), dtype=np.uint8)
        files = [encoded(image, "PNG") for image in pixels]
        members = [
            member
            for n in range(10_000)
            for member in ((f"{n:05}.png", files[n % 256]), (f"{n:05}.cls", str(n % 100).encode()))
        ]
        block = tar(members)
        validation = tar(members[:2000])
        for shards in (1, images // 10_000):
            root = Path(folder) / str(shards)
            root.mkdir()
            for number in range(shards):
                (root / f"train-{number:04}.tar").write_bytes(block + bytes(2 * tarfile.BLOCKSIZE))
            (root / "val-0.tar").write_bytes(validation + bytes(2 * tarfile.BLOCKSIZE))
            start = time.perf_counter()
            done = subprocess.run([sys.executable, "-c", MEASURE, root], stdout=subprocess.PIPE, text=True,
                                  check=True, env=environment)  # fmt: skip
            count, *peaks = map(int, done.stdout.split())
            seconds = time.perf_counter() - start
            result[f"{count:,}"] = {"peak_mb": [peak / 1024 for peak in peaks], "seconds": seconds}
    return result


def table(kind: str, result: dict[str, Any]) -> str:
    """Return a result as Markdown."""
    if kind == "memory":
        head = ["images in shards", "peak after epoch 1 (MB)", "after epoch 4"]
        return markdown_table(
            head, [[name, *(f"{each['peak_mb'][at]:.0f}" for at in (0, -1))] for name, each in result.items()]
        )
    names = list(dict.fromkeys(name for rates in result.values() for name in rates))
    rows = []
    for title, rates in result.items():
        typical = {name: statistics.median(each) for name, each in rates.items()}
        cells = [f"{typical[name]:.0f} ({typical[name] / typical['ImageFolder']:.2f} x)" for name in names]
        rows.append([title, *cells])
    return markdown_table(["JPEGs, images/s", *names], rows)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["speed", "memory"])
    parser.add_argument("--rounds", type=int, default=5, help="of speed")
    parser.add_argument("--scale", type=float, default=1.0, help="part of the images of speed")
    parser.add_argument("--images", type=int, default=1_000_000, help="of memory")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    result = speed(options.rounds, options.scale) if options.kind == "speed" else memory(options.images)
    print(table(options.kind, result))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{options.kind}.json").write_text(as_json(result), encoding="utf-8")
    (options.out / f"{options.kind}.md").write_text(table(options.kind, result) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

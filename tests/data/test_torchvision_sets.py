import gzip
import struct
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision import datasets

from cmkd.data import load
from cmkd.data.torchvision_sets import read_idx
from cmkd.errors import InputError

PARTS = {"train": 12, "t10k": 11}


def idx(array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_fashion(folder, *, packed):
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    written = {}
    for part, count in PARTS.items():
        written[part] = generator.integers(0, 256, (count, 28, 28)), np.arange(count) % 10
        for array, name in zip(written[part], ("images-idx3", "labels-idx1"), strict=True):
            content = idx(array)
            file = folder / f"{part}-{name}-ubyte{'.gz' if packed else ''}"
            file.write_bytes(gzip.compress(content) if packed else content)
    return written


@pytest.fixture
def no_network(monkeypatch):
    def unreachable(*args, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("layout", [".", "FashionMNIST/raw"])
def test_fashion_mnist_in_both_layouts(tmp_path, packed, layout):
    written = write_fashion(tmp_path / layout, packed=packed)
    fashion = load("fashion-mnist", tmp_path)
    for images, part in ((fashion.train, "train"), (fashion.test, "t10k")):
        assert np.array_equal(images.images[:, 0].numpy(), written[part][0])
        assert np.array_equal(images.targets.numpy(), written[part][1])


def test_torchvision_reads_the_same(tmp_path):
    write_fashion(tmp_path / "FashionMNIST" / "raw", packed=False)
    theirs = datasets.FashionMNIST(tmp_path, train=False)
    ours = load("fashion-mnist", tmp_path)
    assert torch.equal(ours.test.images[:, 0], theirs.data)
    assert torch.equal(ours.test.targets, theirs.targets)
    assert list(ours.classes) == theirs.classes


@pytest.mark.parametrize("damage", [lambda c: c[:30], lambda c: c[:-5], lambda c: b"hello", lambda c: b""])
@pytest.mark.parametrize("packed", [True, False])
def test_damaged_idx_file_is_named(tmp_path, damage, packed):
    write_fashion(tmp_path, packed=packed)
    file = next(tmp_path.glob("train-images*"))
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte(\.gz)? is damaged"):
        load("fashion-mnist", tmp_path)


def test_idx_of_other_numbers_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(struct.pack(">HBBI", 0, 0x0D, 1, 1) + bytes(4))  # float32
    with pytest.raises(InputError, match="unsigned bytes"):
        read_idx(tmp_path, "x")


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("cifar10", "cifar-10-batches-py"),
        ("cifar100", "cifar-100-python"),
        ("fashion-mnist", "four idx files"),
    ],
)
def test_absent_without_a_network(tmp_path, no_network, name, files):
    root = tmp_path / "absent"
    with pytest.raises(InputError, match=rf"{name} is not in .*absent.*not known.*{files}"):
        load(name, root)
    assert not root.exists()


def test_default_folder(tmp_path, no_network, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="cifar10 is not in data"):
        load("cifar10")


def test_altered_cifar_is_not_unpickled(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    trace = tmp_path / "trace"
    for name, _ in datasets.CIFAR10.train_list + datasets.CIFAR10.test_list:
        (folder / name).write_bytes(b"cposix\nmkdir\n(V" + str(trace).encode() + b"\ntR.")
    with pytest.raises(InputError, match=r"cifar-10-batches-py is incomplete or differs"):
        load("cifar10", tmp_path)
    assert not trace.exists()


class Downloaded:
    """Two images of CIFAR, and what torchvision's download leaves: a folder, and the archive it came in."""

    base_folder = "small"
    classes = ("cat", "dog")
    meanwhile = staticmethod(lambda: None)

    def __init__(self, root, train=True, download=False):
        folder = Path(root) / "small"
        if download:
            folder.mkdir()
            (Path(root) / "small.tar.gz").write_bytes(b"archive")
            (folder / "first").write_bytes(b"1")
            self.meanwhile()
            (folder / "second").write_bytes(b"22")
        if sorted(file.read_bytes() for file in folder.iterdir()) != [b"1", b"22"]:
            raise RuntimeError("Dataset not found or corrupted.")
        self.data, self.targets = np.zeros((2, 32, 32, 3), np.uint8), [0, 1]


def test_a_download_appears_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "CIFAR10", Downloaded)
    monkeypatch.setattr(Downloaded, "meanwhile", lambda self: seen.append((tmp_path / "small").exists()))
    seen = []
    assert len(load("cifar10", tmp_path).train) == 2
    assert len(load("cifar10", tmp_path).train) == 2
    assert seen == [False]  # once, and not at its place before it was whole
    assert [entry.name for entry in tmp_path.iterdir()] == ["small"]


def test_a_download_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(self):
        raise OSError("Connection reset")

    monkeypatch.setattr(datasets, "CIFAR10", Downloaded)
    monkeypatch.setattr(Downloaded, "meanwhile", fail)
    with pytest.raises(InputError, match=r"cifar10 is not in .*Connection reset"):
        load("cifar10", tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_another_process_may_have_downloaded_it_first(tmp_path, monkeypatch):
    def other(self):
        if not (tmp_path / "small").exists():
            with monkeypatch.context() as patched:
                patched.setattr(Downloaded, "meanwhile", lambda self: None)
                load("cifar10", tmp_path)

    monkeypatch.setattr(datasets, "CIFAR10", Downloaded)
    monkeypatch.setattr(Downloaded, "meanwhile", other)
    assert len(load("cifar10", tmp_path).train) == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["small"]


def test_cifar_is_read_as_torchvision_reads_it(tmp_path, monkeypatch):
    class Small:
        base_folder = "small"
        classes = ("cat", "dog")

        def __init__(self, root, train):
            self.data = np.arange(2 * 32 * 32 * 3, dtype=np.uint8).reshape(
                2, 32, 32, 3
            )  # (N, H, W, channels)
            self.targets = [1, 0] if train else [0, 1]

    (tmp_path / "small").mkdir()
    monkeypatch.setattr(datasets, "CIFAR10", Small)
    cifar = load("cifar10", tmp_path)
    assert cifar.train.images.shape == (2, 3, 32, 32)
    assert cifar.train.images[1, 2, 5, 7] == Small(None, True).data[1, 5, 7, 2]
    assert cifar.train.targets.tolist() == [1, 0]
    assert cifar.test.targets.tolist() == [0, 1]
    assert cifar.classes == ("cat", "dog")

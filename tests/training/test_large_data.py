"""Runs on tar shards: with bad images, from a teacher cache, and killed in the middle of an epoch."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from cmkd.cli import main
from cmkd.data import Loader, load
from cmkd.data.fingerprint import fingerprint


@pytest.fixture(autouse=True)
def index_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "index"))


@pytest.fixture
def shards(tmp_path):
    """Two shards of 20 coloured images, one of them damaged, and a test shard."""
    generator = np.random.default_rng(0)
    for shard, count in (("train-0", 20), ("train-1", 20), ("val-0", 10)):
        path = tmp_path / "set" / f"{shard}.tar"
        path.parent.mkdir(exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for number in range(count):
                buffer = io.BytesIO()
                pixels = generator.integers(0, 256, (12, 10, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(buffer, "PNG")
                content = b"damaged" if (shard, number) == ("train-0", 3) else buffer.getvalue()
                for ending, data in (("png", content), ("cls", str(number % 2).encode())):
                    info = tarfile.TarInfo(f"{number}.{ending}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return tmp_path / "set"


def options(shards, **more):
    given = {
        "data": f"wds:{shards}",
        "image-size": 16,
        "batch-size": 8,
        "workers": 0,
        "bad-images": "skip",
        "precision": "fp32",
    } | more
    return [text for option, value in given.items() for text in (f"--{option}", str(value))] + [
        "--cpu",
        "true",
    ]


def test_a_bad_image_ends_the_run_unless_it_is_to_be_skipped(shards, tmp_path, capsys):
    command = ["train", "--model", "resnet8", "--epochs", "1", "--out", str(tmp_path / "run")]
    assert main([*command, *options(shards, **{"bad-images": "fail"})]) == 2
    message = capsys.readouterr().err
    assert f"cannot read the image {shards}/train-0.tar:3.png: no image format that Pillow knows" in message
    assert "Traceback" not in message
    assert main([*command, *options(shards)]) == 0  # the same run goes on
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["bad_images"] == {"train": 1}
    assert "train-0.tar:3.png" in json.loads((tmp_path / "run" / "bad_images.json").read_text())["train"]["3"]
    assert main(["evaluate", str(tmp_path / "run"), "--cpu", "true"]) == 0


def test_cached_and_live_teacher_agree_about_stand_ins(shards, tmp_path):
    train = ["train", "--model", "resnet8", "--epochs", "1", "--out", str(tmp_path / "teacher")]
    assert main([*train, *options(shards)]) == 0
    teacher = ["--teacher", str(tmp_path / "teacher")]
    stored = options(shards, dtype="float32", views=2)
    assert main(["cache", str(tmp_path / "cache"), *teacher, *stored]) == 0
    distill = ["distill", *teacher, "--student", "resnet8", "--epochs", "2", "--loss", "KD"]
    shared = options(shards, **{"augment-seed": 0, "views": 2})
    assert main([*distill, *shared, "--out", str(tmp_path / "live")]) == 0
    from_cache = ["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "cached")]
    assert main([*distill, *shared, *from_cache]) == 0
    live, cached = (load_file(tmp_path / run / "student.safetensors") for run in ("live", "cached"))
    for name, weights in live.items():
        torch.testing.assert_close(cached[name], weights, rtol=1e-5, atol=1e-6)


def test_fingerprint_of_shards(shards, tmp_path):
    images = load(f"wds:{shards}", bad_images="skip").train
    same = load(f"wds:{shards}", bad_images="skip", image_size=32).train
    assert fingerprint(images) == fingerprint(same)
    part = images.subset(torch.arange(1, len(images)))
    assert fingerprint(part) != fingerprint(images)
    order = torch.arange(len(images))
    order[[0, 2]] = order[[2, 0]]  # of one class
    assert fingerprint(images.subset(order)) != fingerprint(images)


def test_workers_see_the_same_as_the_process_itself(shards):
    images = load(f"wds:{shards}", bad_images="skip", image_size=16).train
    statistics = {"mean": (0.5,) * 3, "std": (0.2,) * 3}
    loaders = [
        Loader(images, batch_size=8, shuffle=True, augment="resized_crop_flip", workers=workers, **statistics)
        for workers in (0, 2)
    ]
    for here, there in zip(*(loader.epoch(1) for loader in loaders), strict=True):
        assert torch.equal(here.images, there.images)
        assert torch.equal(here.indices, there.indices)
    assert loaders[0].bad_images == loaders[1].bad_images

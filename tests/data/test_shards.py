import io
import json
import logging
import os
import pickle
import subprocess
import sys
import tarfile

import pytest
import torch
from PIL import Image

from cmkd.data import Loader, load
from cmkd.data.shards import expand
from cmkd.errors import InputError

STATISTICS = {"mean": (0.0,) * 3, "std": (1.0,) * 3}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cmkd" / "shards"


def grey(value, size=(9, 9), kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", size, (value,) * 3).save(buffer, kind)
    return buffer.getvalue()


def write(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def samples(values):
    """A grey image and its class, the value modulo 2, for every value."""
    for value in values:
        yield f"{value:04}.png", grey(value)
        yield f"{value:04}.cls", str(value % 2).encode()


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "set"
    write(folder / "train-000.tar", samples(range(7)))
    write(folder / "train-001.tar", samples(range(7, 20)))
    write(folder / "val-000.tar", samples(range(100, 104)))
    return folder


def greys(images, indices=None):
    indices = torch.arange(len(images)) if indices is None else indices
    return images.read(indices)[:, 0, 4, 4].tolist()


def test_every_image_and_its_label_is_found(shards):
    data = load(f"wds:{shards}", image_size=8)
    assert greys(data.train) == list(range(20))
    assert data.train.targets.tolist() == [value % 2 for value in range(20)]
    assert greys(data.test) == [100, 101, 102, 103]
    assert data.classes == ("0", "1")
    assert greys(data.train, torch.tensor([19, 0, 7])) == [19, 0, 7]


def test_labels_of_json_and_names_of_classes(tmp_path):
    members = [
        ("a/1.json", json.dumps({"label": 1, "text": "é"}).encode()),
        ("a/1.jpg", grey(9, kind="JPEG")),
    ]
    members += [("b/1.seg.PNG", grey(8)), ("b/1.json", b'{"label": 0}')]
    write(tmp_path / "train" / "0.tar", members)
    write(tmp_path / "validation" / "0.tar", samples(range(2)))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    data = load(f"wds:{tmp_path}", image_size=8)
    assert data.train.targets.tolist() == [1, 0]
    assert data.classes == ("cat", "dog")
    assert len(data.test) == 2


def test_long_names_and_hidden_members(tmp_path):
    long = "folder/" * 30 + "name" * 30
    members = [("._junk.png", b"of macOS"), (f"{long}.png", grey(5)), (f"{long}.cls", b" 1\n"), *samples([6])]
    write(tmp_path / "x.tar", members * 3)
    images = load(f"wds:{tmp_path / 'x.tar'}", image_size=8).train
    assert set(greys(images)) == {5, 6}


def test_without_a_test_part_a_fifth_is_set_aside(shards):
    data = load(f"wds:{shards}/train-*.tar", image_size=8)
    assert (len(data.train), len(data.test)) == (16, 4)
    assert sorted(greys(data.train) + greys(data.test)) == list(range(20))


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{train,val}-000.tar", ["train-000", "val-000"]),
        ("train-{000..001}.tar", ["train-000", "train-001"]),
        ("{val-000,train-{000..001}}.tar", ["val-000", "train-000", "train-001"]),
        ("train-00[01].tar", ["train-000", "train-001"]),
        ("*-000.tar", ["train-000", "val-000"]),
    ],
)
def test_patterns(shards, pattern, names):
    assert [path.stem for path in expand(f"{shards}/{pattern}")] == names


@pytest.mark.parametrize("pattern", ["train-{000..002}.tar", "absent-*.tar", "train-002.tar"])
def test_shard_that_is_missing_is_named(shards, pattern):
    with pytest.raises(InputError, match=r"no such shard: .*(002|absent-\*)\.tar"):
        load(f"wds:{shards}/{pattern}")


def test_the_index_is_kept_until_a_shard_changes(shards, cache, monkeypatch):
    load(f"wds:{shards}")
    assert len(list(cache.iterdir())) == 2  # one of the training, one of the test shards
    kept = {file: file.stat().st_mtime_ns for file in cache.iterdir()}
    load(f"wds:{shards}")
    assert {file: file.stat().st_mtime_ns for file in cache.iterdir()} == kept
    write(shards / "train-001.tar", samples(range(7, 9)))
    assert len(load(f"wds:{shards}").train) == 9


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY half of it"])
def test_damaged_index_is_built_again(shards, cache, content):
    load(f"wds:{shards}")
    for file in cache.iterdir():
        file.write_bytes(content)
    assert greys(load(f"wds:{shards}", image_size=8).train) == list(range(20))


def test_no_place_for_the_index(shards, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING, logger="cmkd"):
        assert len(load(f"wds:{shards}").train) == 20
    assert "cannot keep the index" in caplog.text


def test_full_disk_leaves_no_half_index(shards, cache, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert len(load(f"wds:{shards}").train) == 20
    assert list(cache.iterdir()) == []


def test_processes_and_resume_get_exact_parts(shards):
    images = load(f"wds:{shards}", image_size=8).train
    options = {"batch_size": 4, "shuffle": True, "seed": 3, "augment": "resized_crop_flip", **STATISTICS}
    whole = list(Loader(images, workers=0, **options).epoch(2))
    assert sorted(torch.cat([batch.indices for batch in whole]).tolist()) == list(range(20))
    ranks = [
        list(Loader(images, workers=2, rank=r, world_size=2, **options).epoch(2, start=1)) for r in range(2)
    ]
    for batch, *parts in zip(whole[1:], *ranks, strict=True):
        assert torch.equal(batch.indices, torch.cat([part.indices for part in parts]))
        assert torch.equal(batch.images, torch.cat([part.images for part in parts]))


def test_can_be_sent_to_a_spawned_worker(shards):
    images = load(f"wds:{shards}", image_size=8).train
    greys(images)
    assert greys(pickle.loads(pickle.dumps(images))) == list(range(20))


BAD = {
    "no label": ([("a.png", grey(1))], r"the sample of a\.png has no label"),
    "empty label": ([("a.png", grey(1)), ("a.cls", b"")], "has a label that is no whole number"),
    "word for a label": ([("a.png", grey(1)), ("a.cls", b"cat")], "has a label that is no whole number"),
    "negative label": ([("a.png", grey(1)), ("a.cls", b"-1")], "has a label that is no whole number"),
    "broken json": ([("a.png", grey(1)), ("a.json", b"{")], "has a label that is no whole number"),
    "json without": ([("a.png", grey(1)), ("a.json", b"{}")], "has no label"),
    "no image": ([("a.cls", b"1")], r"the sample of a\.cls has no image"),
    "two images": ([("a.png", grey(1)), ("a.b.jpg", grey(1)), ("a.cls", b"1")], "has more than one image"),
    "empty": ([], "has no images"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_samples_are_refused_or_left_out_and_counted(shards, kind, caplog):
    members, message = BAD[kind]
    bad = write(shards / "train-002.tar", members)
    with pytest.raises(InputError, match=rf"{bad}.*{message}.*Mend or remove it, or take --bad_images skip"):
        load(f"wds:{shards}")
    with caplog.at_level(logging.WARNING, logger="cmkd"):
        assert greys(load(f"wds:{shards}", image_size=8, bad_images="skip").train) == list(range(20))
    count = "1 empty shards and 0 bad" if kind == "empty" else "0 empty shards and 1 bad"
    assert f"left out {count} samples in 3 shards" in caplog.text


@pytest.mark.parametrize("kind", ["header", "middle", "garbage", "no end", "no tar", "compressed"])
def test_damaged_shards_are_never_taken_for_short_ones(shards, kind, caplog):
    path = shards / "train-001.tar"
    content = path.read_bytes()
    # Every member is a block of header and a block of content; 26 members are 52 blocks.
    damaged, left = {
        "header": (content[: 512 * 8 + 100], 2),
        "middle": (content[: 512 * 9 + 7], 2),
        "garbage": (content[: 512 * 8] + b"x" * 512 + content[512 * 9 :], 2),
        "no end": (content[: 512 * 52], 13),
        "no tar": (b"something else" * 1000, 0),
        "compressed": (b"\x1f\x8b\x08" + content[3:], 0),
    }[kind]
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"train-001\.tar, byte \d+, cannot be read"):
        load(f"wds:{shards}")
    with caplog.at_level(logging.WARNING, logger="cmkd"):
        images = load(f"wds:{shards}", image_size=8, bad_images="skip").train
    assert greys(images) == list(range(7 + left))
    assert "1 bad samples" in caplog.text


def test_zero_bytes_are_an_empty_shard(shards):
    (shards / "train-001.tar").write_bytes(b"")
    with pytest.raises(InputError, match=r"train-001\.tar has no images \(1 empty"):
        load(f"wds:{shards}")


def test_image_that_is_no_image_is_named_when_it_is_read(shards):
    write(shards / "train-001.tar", [*samples(range(7, 19)), ("odd.png", b"no image"), ("odd.cls", b"1")])
    images = load(f"wds:{shards}").train
    with pytest.raises(InputError, match=r"cannot read the image .*train-001\.tar:odd\.png: no image format"):
        images.read(torch.tensor([19]))


def test_shard_that_shrinks_while_it_is_read(shards):
    images = load(f"wds:{shards}").train
    os.truncate(shards / "train-001.tar", 512)
    with pytest.raises(InputError, match=r"the shard ends .* bytes before it does"):
        images.read(torch.tensor([19]))


@pytest.mark.parametrize(
    ("name", "message"),
    [("more.tar", "belongs to no part"), ("absent", "no such shard")],
)
def test_parts_that_cannot_be_told(shards, name, message):
    if name.endswith(".tar"):
        write(shards / name, samples([1]))
        name = ""
    with pytest.raises(InputError, match=message):
        load(f"wds:{shards}/{name}")


def test_test_part_alone(shards):
    with pytest.raises(InputError, match="all shards belong to the part val; name those for training too"):
        load(f"wds:{shards}/val-*.tar")


def test_folder_without_shards(tmp_path):
    with pytest.raises(InputError, match=r"has no \.tar files"):
        load(f"wds:{tmp_path}")


def test_a_range_that_counts_backwards(shards):
    with pytest.raises(InputError, match=r"\{001\.\.000\} in .* counts backwards; write \{000\.\.001\}"):
        expand(f"{shards}/train-{{001..000}}.tar")


def test_names_of_classes_in_other_encodings(shards):
    names = [f"naïve {number}" for number in range(len(load(f"wds:{shards}").classes))]
    (shards / "classes.txt").write_text("\n".join(names), encoding="utf-8-sig")  # with a mark in front
    assert load(f"wds:{shards}").classes == tuple(names)
    (shards / "classes.txt").write_text("\n".join(names), encoding="latin-1")
    with pytest.raises(InputError, match=r"classes\.txt is not in UTF-8"):
        load(f"wds:{shards}")


def test_a_folder_whose_name_is_not_utf8(shards):
    elsewhere = shards.rename(shards.parent / os.fsdecode(b"caf\xe9"))
    assert len(load(f"wds:{elsewhere}").train) > 0


def test_labels_that_do_not_count_classes(shards):
    write(shards / "train-001.tar", [("a.png", grey(1)), ("a.cls", b"2000000000")])
    with pytest.raises(InputError, match="labels count the classes from 0"):
        load(f"wds:{shards}")


def test_fewer_names_than_classes(shards):
    (shards / "classes.txt").write_text("only one\n")
    with pytest.raises(InputError, match="1 class"):
        load(f"wds:{shards}")


MEASURE = """
import itertools, re, sys
from cmkd.data import Loader, load
for path in sys.argv[1:]:
    images = load("wds:" + path, image_size=8).train
    loader = Loader(images, batch_size=128, shuffle=True, workers=0, mean=(0.,)*3, std=(1.,)*3)
    for epoch in range(4):
        list(itertools.islice(loader.epoch(epoch), 3))
        print(len(images), re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of a process")
def test_memory_grows_little_with_the_set_and_not_with_the_epochs(tmp_path):
    block = write(tmp_path / "block.tar", samples(range(200))).read_bytes()[: 512 * 800]
    paths = [tmp_path / f"{count}.tar" for count in (5, 100)]
    for path in paths:
        path.write_bytes(block * int(path.stem) + bytes(1024))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *paths], stdout=subprocess.PIPE, text=True, check=True
    )
    lengths, peaks = zip(*(map(int, line.split()) for line in done.stdout.splitlines()), strict=True)
    assert lengths == (800,) * 4 + (16_000,) * 4
    assert peaks[4] - peaks[3] < 8_000  # kilobytes; 19,000 more images as Python objects take over 10,000
    assert peaks[7] - peaks[4] < 2_000


def test_the_folder_of_the_cache_is_for_nobody_else_to_write(shards, cache):
    """Or the compiled kernels, which run, would not be kept there: a umask for groups leaves it open."""
    before = os.umask(0o002)
    try:
        load(f"wds:{shards}")
    finally:
        os.umask(before)
    assert not cache.parent.stat().st_mode & 0o077

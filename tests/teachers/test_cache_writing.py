"""A cache is written whole or is not read, whoever writes it and whatever comes between."""

import errno
import json
import os
import pkgutil
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from cmkd.errors import InputError
from cmkd.teachers import CachedTeacher
from cmkd.teachers.cache_format import read_manifest
from tests.teachers.caches import SAMPLES, SHARD_ROWS, logits, logits_of, write

ROOT = Path(__file__).parents[2]


def stored(path, view):
    return CachedTeacher(path).rows(view, np.arange(SAMPLES))


def test_logits_come_back(tmp_path):
    assert write(tmp_path / "cache", views=2)
    for view in (0, 1):
        assert np.array_equal(stored(tmp_path / "cache", view), logits(view))
    assert sorted(entry.name for entry in (tmp_path / "cache").iterdir()) == [
        ".lock",
        "manifest.json",
        "view000",
        "view001",
    ]


def test_shards_are_files_that_numpy_reads(tmp_path):
    write(tmp_path, dtype="float16")
    last = np.load(tmp_path / "view000/00002.npy")
    assert np.array_equal(last, logits(0)[2 * SHARD_ROWS :].astype(np.float16))


def test_float16_is_off_by_half_a_unit_in_the_last_place(tmp_path):
    write(tmp_path, dtype="float16")
    np.testing.assert_allclose(stored(tmp_path, 0), logits(0), rtol=2**-11, atol=2**-25)


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(
    ("function", "calls"),
    [
        ("cmkd.teachers.cache_writing.write_atomic", 1),  # the manifest of a new cache
        ("cmkd.teachers.cache_writing.write_atomic", 2),  # the first shard
        ("cmkd.teachers.cache_writing.write_atomic", 6),  # a shard of the second view
        ("cmkd.teachers.cache_writing.write_atomic", 8),  # the manifest with all of it
        ("cmkd.files.os.fsync", 4),  # amid a write
        ("cmkd.teachers.cache_writing.shard_bytes", 3),
    ],
)
def test_killed_at_any_instant(tmp_path, monkeypatch, function, calls, before):
    original, owner, name = pkgutil.resolve_name(function), *function.rsplit(".", 1)
    left = [calls]

    def call(*arguments):
        left[0] -= 1
        if left[0] == 0 and before:
            raise Killed
        returned = original(*arguments)
        if left[0] == 0:
            raise Killed
        return returned

    with monkeypatch.context() as patch:
        patch.setattr(pkgutil.resolve_name(owner), name, call)
        with pytest.raises(Killed):
            write(tmp_path / "cache", views=2)
    if (function, calls, before) != ("cmkd.teachers.cache_writing.write_atomic", 8, False):
        with pytest.raises(InputError, match=r"unfinished|does not exist|no teacher cache"):
            CachedTeacher(tmp_path / "cache")
    assert write(tmp_path / "cache", views=2)
    for view in (0, 1):
        assert np.array_equal(stored(tmp_path / "cache", view), logits(view))
    assert not (tmp_path / "cache/written.jsonl").exists()


def test_killed_by_the_system(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom tests.teachers.caches import logits_of, write\n"
        "def slow(view, indices):\n"
        "    for batch in logits_of(view, indices):\n        time.sleep(0.002)\n        yield batch\n"
        "write(Path(sys.argv[1]), views=20, source=slow)\n"
    )
    killed = 0
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "cache")], cwd=ROOT)
        there, begun = len(list(tmp_path.rglob("*.npy"))), time.monotonic()
        while len(list(tmp_path.rglob("*.npy"))) <= there and time.monotonic() - begun < 60:
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed, "every process was through before it was killed: the test tested nothing"
    if killed == 2:
        with pytest.raises(InputError, match="unfinished"):
            CachedTeacher(tmp_path / "cache")
    assert write(tmp_path / "cache", views=20)
    for view in range(20):
        assert np.array_equal(stored(tmp_path / "cache", view), logits(view))


def test_what_is_written_is_not_computed_again(tmp_path):
    seen = []

    def once_interrupted(view, indices):
        for part in indices.split(3):
            if len(seen) > SHARD_ROWS:
                raise Killed
            seen.extend(part.tolist())
            yield torch.from_numpy(logits(view)[part.numpy()])

    def watched(view, indices):
        seen.extend(indices.tolist())
        return logits_of(view, indices)

    with pytest.raises(Killed):
        write(tmp_path, source=once_interrupted)
    seen.clear()
    assert write(tmp_path, source=watched)
    assert seen == list(range(SHARD_ROWS, SAMPLES))
    seen.clear()
    assert write(tmp_path, source=watched)
    assert seen == []
    assert write(tmp_path, source=watched, views=2)  # further views join those that are there
    assert seen == list(range(SAMPLES))
    assert write(tmp_path, source=watched, views=1)
    assert read_manifest(tmp_path).views == 2
    assert np.array_equal(stored(tmp_path, 0), logits(0))


def test_a_line_that_was_cut_off_costs_one_shard(tmp_path):
    def interrupted(view, indices):
        yield torch.from_numpy(logits(view)[: 2 * SHARD_ROWS])
        raise Killed

    with pytest.raises(Killed):
        write(tmp_path, source=interrupted)
    journal = tmp_path / "written.jsonl"
    journal.write_text(journal.read_text()[:-9])
    assert write(tmp_path)
    assert np.array_equal(stored(tmp_path, 0), logits(0))


@pytest.mark.parametrize("views", [1, 3])
def test_processes_share_the_shards(tmp_path, views):
    looked_at = []

    def watched(view, indices):
        looked_at.extend((view, index) for index in indices.tolist())
        return logits_of(view, indices)

    whole = [write(tmp_path, views=views, source=watched, rank=rank, world_size=2) for rank in (0, 1)]
    assert whole == [False, True]
    assert sorted(looked_at) == [(view, index) for view in range(views) for index in range(SAMPLES)]
    for view in range(views):
        assert np.array_equal(stored(tmp_path, view), logits(view))


def test_a_second_writer_of_the_same_shards_is_refused(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom cmkd.errors import InputError\n"
        "from tests.teachers.caches import write\n"
        "try: print(write(Path(sys.argv[1]), rank=int(sys.argv[2]), world_size=int(sys.argv[3])))\n"
        "except InputError as error: print(error)\n"
    )
    said = []

    def crowded(view, indices):
        for rank, world_size in ((0, 1), (0, 2), (1, 2)):
            command = [sys.executable, "-c", code, str(tmp_path), str(rank), str(world_size)]
            said.append(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout)
        return logits_of(view, indices)

    # The process at work has shards 0 and 2; the other half is free.
    assert write(tmp_path, source=crowded, world_size=2)
    assert ["is being written by another process" in text for text in said] == [True, True, False]
    assert said[2].strip() == "False"
    assert np.array_equal(stored(tmp_path, 0), logits(0))


def test_a_full_disk_keeps_what_was_written(tmp_path, monkeypatch):
    fsync, left = os.fsync, [4]  # the manifest, a shard, its line, and then no more

    def full(descriptor):
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(InputError, match=r"No space left.*written before is intact: repeat") as caught:
            write(tmp_path)
    assert "00001.npy" in str(caught.value)
    assert [entry.name for entry in (tmp_path / "view000").iterdir()] == ["00000.npy"]
    with pytest.raises(InputError, match="unfinished"):
        CachedTeacher(tmp_path)
    assert write(tmp_path)
    assert np.array_equal(stored(tmp_path, 0), logits(0))


def test_a_full_disk_leaves_no_empty_folder(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space left"):
        write(tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "message"),
    [(7e4, r"image 9 reach 70000.*65504.*--dtype float32"), (float("nan"), "image 9 are not finite")],
)
def test_logits_that_float16_cannot_hold(tmp_path, value, message):
    def large(view, indices):
        for batch in logits_of(view, indices):
            batch[(indices[: len(batch)] == 9).nonzero().flatten()] = value
            indices = indices[len(batch) :]
            yield batch

    with pytest.raises(InputError, match=message):
        write(tmp_path / "half", source=large, dtype="float16")
    if value == 7e4:
        assert write(tmp_path / "single", source=large)
        assert stored(tmp_path / "single", 0)[9].tolist() == [7e4] * 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": "12" * 32}, r"weights.*there abababababab, now 121212121212"),
        ({"augment": "none"}, "--augment: there flip, now none"),
        ({"augment_seed": 3}, "--augment_seed: there 0, now 3"),
        ({"dtype": "float16"}, "--dtype: there float32, now float16"),
        (
            {"fingerprint": "34" * 16, "data": "other"},
            r"made-up \(fingerprint cdcdcdcdcdcd\), now other \(fingerprint 343434343434\)",
        ),
        ({"precision": "bf16"}, "--precision: there fp32, now bf16"),
    ],
)
def test_another_cache_is_left_alone(tmp_path, change, message):
    write(tmp_path)
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(InputError, match=message):
        write(tmp_path, **change)
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_places_that_are_no_cache(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        write(tmp_path / "file")
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers/thesis.tex").write_text("important")
    with pytest.raises(InputError, match=r"no teacher cache \(it holds 'thesis.tex'\)"):
        write(tmp_path / "papers")
    assert [entry.name for entry in (tmp_path / "papers").iterdir()] == ["thesis.tex"]


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", refuse)
    with pytest.raises(InputError, match=r"cannot lock .*: No locks available; give a folder"):
        write(tmp_path / "cache")


def test_a_shard_that_was_removed_is_written_anew(tmp_path):
    write(tmp_path, views=2)
    (tmp_path / "view001/00001.npy").unlink()
    assert write(tmp_path)
    assert np.array_equal(stored(tmp_path, 1), logits(1))
    assert json.loads((tmp_path / "manifest.json").read_text())["format"] == 1

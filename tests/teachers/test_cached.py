"""Reading a cache: the right rows, and no word from files that are not what they should be."""

import re

import numpy as np
import pytest
import torch

from cmkd.data import Batch
from cmkd.errors import InputError
from cmkd.teachers import CachedTeacher
from tests.teachers.caches import CLASSES, SAMPLES, logits, write


@pytest.fixture(params=["copied", "mapped"], autouse=True)
def _size(request, monkeypatch):
    """Small views are copied; without that, these are read as large ones are."""
    if request.param == "mapped":
        monkeypatch.setattr("cmkd.teachers.cached._SMALL_VIEW", 0)


@pytest.fixture
def cache(tmp_path):
    write(tmp_path / "cache", views=2)
    return tmp_path / "cache"


def batch(indices, view):
    indices = torch.tensor(indices)
    return Batch(torch.empty(len(indices), 3, 8, 8), torch.zeros(len(indices)), indices, view)


def test_it_is_called_like_a_network(cache):
    teacher = CachedTeacher(cache)
    generator = np.random.default_rng(5)
    for view in (0, 1, 0):
        indices = generator.permutation(SAMPLES)[:11].tolist()
        answer = teacher(batch(indices, view))
        assert answer.dtype == torch.float32
        assert np.array_equal(answer.numpy(), logits(view)[indices])
        assert np.array_equal(teacher(batch(indices[:1], view)).numpy(), logits(view)[indices[:1]])
    assert teacher(batch([3, 3, 19, 3], 1)).tolist() == logits(1)[[3, 3, 19, 3]].tolist()


@pytest.mark.parametrize("index", [SAMPLES, 10**6])
def test_images_that_do_not_exist(cache, index):
    with pytest.raises(IndexError):
        CachedTeacher(cache)(batch([3, index], 0))


def test_an_empty_batch(cache):
    empty = batch([], 0)
    empty = Batch(empty.images, empty.targets, empty.indices.long(), 0)
    assert CachedTeacher(cache)(empty).shape == (0, CLASSES)


def test_float16_is_answered_in_float32(tmp_path):
    write(tmp_path, dtype="float16")
    answer = CachedTeacher(tmp_path)(batch([4, 17], 0))
    assert answer.dtype == torch.float32
    assert answer.tolist() == logits(0)[[4, 17]].astype(np.float16).tolist()


def test_many_readers_at_once_change_nothing(cache):
    before = {file: file.read_bytes() for file in cache.rglob("*") if file.is_file()}
    readers = [CachedTeacher(cache) for _ in range(3)]
    answers = [reader(batch([0, 9, 18], 1)) for reader in readers]
    answers[0].zero_()  # what one does with its answer is no other's business
    assert torch.equal(answers[1], answers[2])
    assert torch.equal(readers[0](batch([0, 9, 18], 1)), answers[1])
    assert before == {file: file.read_bytes() for file in cache.rglob("*") if file.is_file()}


def test_fewer_views_than_asked(cache):
    CachedTeacher(cache, views=1)
    with pytest.raises(InputError, match=r"has views: 2, asked for are 3; give --views 2, or add"):
        CachedTeacher(cache, views=3)
    with pytest.raises(InputError, match="view 1 is asked"):
        CachedTeacher(cache, views=1)(batch([0], 1))


def flip_bit(file, position):
    content = bytearray(file.read_bytes())
    content[position] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize("position", [20, 128, -1], ids=["header", "first", "last"])
def test_a_flipped_bit_is_found_when_the_view_is_first_used(cache, position):
    flip_bit(cache / "view001/00001.npy", position)
    teacher = CachedTeacher(cache)
    teacher(batch(range(SAMPLES), 0))
    for _ in range(2):
        with pytest.raises(InputError, match=r"view001/00001\.npy is damaged.*checksum.*`cmkd cache`"):
            teacher(batch([0], 1))
    with pytest.raises(InputError, match=r"00001\.npy is damaged"):
        CachedTeacher(cache).verify()


def test_verify_reads_everything(cache):
    assert CachedTeacher(cache).verify() == 2 * SAMPLES * CLASSES * 4


def test_a_cut_off_shard(cache):
    file = cache / "view000/00000.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"00000\.npy has 287 bytes instead of 288"):
        CachedTeacher(cache)


def test_a_missing_shard(cache):
    (cache / "view001/00002.npy").unlink()
    with pytest.raises(InputError, match=r"00002\.npy is missing"):
        CachedTeacher(cache)
    CachedTeacher(cache, views=1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged: no valid JSON"),
        ("\x00\x01", "damaged: no valid JSON"),
        ("[]", "cmkd did not write"),
        ('{"views": 3}', "cmkd did not write"),
        ('{"format": 2}', "has format 2, this version of cmkd reads format 1"),
        ('{"format": 1, "identity": {}}', "damaged: it lacks augment"),
        ('{"format": 1, "identity": 7}', "damaged"),
    ],
)
def test_manifests_that_cannot_be_read(cache, content, message):
    (cache / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=message):
        CachedTeacher(cache)


def test_a_shard_in_the_place_of_another(cache):
    first, second = (cache / f"view00{view}/00000.npy" for view in (0, 1))
    first.write_bytes(second.read_bytes())
    with pytest.raises(InputError, match="checksum"):
        CachedTeacher(cache)(batch([0], 0))


def test_folders_that_are_no_cache(tmp_path):
    with pytest.raises(InputError, match=r"absent does not exist; `cmkd cache` writes one"):
        CachedTeacher(tmp_path / "absent")
    with pytest.raises(InputError, match=re.escape(f"{tmp_path} is no teacher cache: it has no manifest")):
        CachedTeacher(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        CachedTeacher(tmp_path / "file")

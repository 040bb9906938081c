import errno
import os
from pathlib import Path

import pytest

from cmkd.errors import InputError
from cmkd.files import at_home, write_atomic


def test_an_atomic_write_that_fails_leaves_the_old_text(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    write_atomic(file, "old")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"a\.json: No space"):
        write_atomic(file, "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
    assert file.read_text() == "old"


def test_text_and_bytes_and_a_new_folder(tmp_path):
    assert write_atomic(tmp_path / "new/a.txt", "ä").read_bytes() == "ä".encode()
    assert write_atomic(tmp_path / "new/a.txt", b"\x00").read_bytes() == b"\x00"


def test_home_is_found_and_nobodys_home_is_a_name(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert at_home("~/runs") == Path("/somewhere/runs")
    assert at_home(Path("~nobody-of-that-name/runs")) == Path("~nobody-of-that-name/runs")
    assert at_home("runs/~") == Path("runs/~")

"""A library that is not installed is named with the command that installs it."""

import sys

import pytest

from cmkd import data
from cmkd.bench.on_ray import RayRunner
from cmkd.errors import InputError
from cmkd.hub import from_pretrained


@pytest.mark.parametrize(
    ("library", "extra", "use"),
    [
        ("datasets", "hf", lambda: data.load("hf:someone/something")),
        ("huggingface_hub", "hub", lambda: from_pretrained("someone/something")),
        ("ray", "cluster", lambda: RayRunner(None, None, gpus=None, cpus=1)),
    ],
)
def test_what_is_missing_is_named_with_its_extra(monkeypatch, library, extra, use):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError) as error:
        use()
    assert str(error.value) == f'{library} is not installed; run: pip install "cmkd[{extra}]"'

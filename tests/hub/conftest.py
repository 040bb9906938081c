import json
import shutil
from pathlib import Path

import pytest

from cmkd.teachers.opening import SHIPPED

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path):
    """A finished run: the records of the demo's student, with the weights that ship with the package."""
    folder = Path(shutil.copytree(ROOT / "results/demo/cmkd-seed0", tmp_path / "student"))
    for name in ("model.json", "student.safetensors"):
        shutil.copy(SHIPPED / name, folder / name)
    return folder


@pytest.fixture
def change():
    """Change keys of a JSON file."""

    def changed(file, **changes):
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return changed

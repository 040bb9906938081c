import json
import shutil
import sys
from pathlib import Path

import pytest

from cmkd.export import checking, timing
from cmkd.teachers.opening import SHIPPED
from cmkd.training import TrainConfig, train


@pytest.fixture(autouse=True)
def _brief(monkeypatch):
    """Latencies are not looked at here, and fewer images calibrate as well."""
    monkeypatch.setattr(timing, "_SECONDS", 0.01)
    monkeypatch.setattr(checking, "_CALIBRATION_IMAGES", 128)


@pytest.fixture(autouse=True)
def _tiny_networks(tiny_networks):
    """Runs name their network as a user's own."""


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a finished run, to be copied by whoever changes it."""
    out = tmp_path_factory.mktemp("trained") / "run"
    sys.path.insert(0, str(Path(__file__).parents[1]))
    try:
        config = TrainConfig(model="tiny_networks:staged", epochs=1, batch_size=500, out=str(out), cpu=True)
        return train(config, progress=False).path
    finally:
        sys.path.pop(0)


@pytest.fixture
def run(trained, tmp_path):
    """A copy of that run."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def teacher(tmp_path):
    """The teacher of the demo, as a run on the embedded images, on which its accuracy is known."""
    folder = Path(shutil.copytree(SHIPPED, tmp_path / "teacher"))
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("data: fashion-mnist\n", "data: fashion-mnist-12k\n"))
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**card, "data": "fashion-mnist-12k"}))
    return folder

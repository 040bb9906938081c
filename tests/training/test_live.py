"""What TensorBoard reads back is what the run measured, and the run is the one that nobody looked on."""

import json
import sys
import types

import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from cmkd.cli import main
from cmkd.errors import InputError, Interrupted
from cmkd.models import read_state_dict
from cmkd.training import TrainConfig, train
from cmkd.training import live as live_module
from cmkd.training import loop as loop_module
from cmkd.training.live import Live, open_live
from cmkd.training.run_folder import RunFolder


@pytest.fixture(autouse=True)
def _tiny_networks(tiny_networks):
    """Runs name their network as a user's own."""


def config(out, **changes):
    options = {"model": "tiny_networks:student", "epochs": 2, "batch_size": 500, "cpu": True, "out": str(out)}
    return TrainConfig(**{**options, **changes})


def scalars(folder):
    """Read what TensorBoard would show: tag -> list of (step, value)."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = accumulator.EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    read.Reload()
    return {tag: [(each.step, each.value) for each in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody looked on, and one with TensorBoard."""
    pytest.importorskip("tensorboard")
    folder = tmp_path_factory.mktemp("live")
    with pytest.MonkeyPatch.context() as patch:
        from tests.conftest import TESTS

        patch.syspath_prepend(str(TESTS))
        torch.set_num_threads(1)
        train(config(folder / "unseen", tracker="none"), progress=False)
        patch.setattr(live_module, "INTERVAL", 0.0)
        train(config(folder / "seen", tracker="tensorboard"), progress=False)
    return folder


def test_tensorboard_shows_what_was_measured(whole):
    shown, measured = scalars(whole / "seen"), rows(whole / "seen")
    per_epoch = shown["running/loss"][-1][0] // 2
    for part, name in (("train", "loss"), ("train", "accuracy"), ("validation", "accuracy")):
        expected = [(row["epoch"] * per_epoch, row[part][name]) for row in measured]
        assert shown[f"{part}/{name}"] == [(step, pytest.approx(value, rel=1e-6)) for step, value in expected]
    assert [step for step, _ in shown["running/loss"]] == list(range(1, 2 * per_epoch + 1))
    # At the last batch of an epoch the running mean is the epoch's.
    assert shown["running/loss"][-1][1] == pytest.approx(measured[-1]["train"]["loss"], rel=1e-6)
    assert not any("histograms" in tag for tag in shown)


def test_looking_on_changes_nothing(whole):
    unseen, seen = (read_state_dict(whole / name / "student.safetensors") for name in ("unseen", "seen"))
    assert all(torch.equal(unseen[name], seen[name]) for name in unseen)
    assert not (whole / "unseen/tensorboard").exists()
    assert [row["train"] for row in rows(whole / "unseen")] == [row["train"] for row in rows(whole / "seen")]


def test_a_run_that_goes_on_goes_on_in_the_same_log(whole, tmp_path, monkeypatch):
    """Killed after showing more than its checkpoint has: every step is shown once in the end."""
    monkeypatch.setattr(live_module, "INTERVAL", 0.0)
    original, left = loop_module.Progress.step, [9]

    def step(self, epoch, batch, meters):
        original(self, epoch, batch, meters)
        left[0] -= 1
        if left[0] == 0:
            raise Interrupted  # as a kill: nothing is saved

    monkeypatch.setattr(loop_module.Progress, "step", step)
    with pytest.raises(Interrupted):
        train(config(tmp_path / "run", tracker="tensorboard"), progress=False)
    assert len(scalars(tmp_path / "run")["running/loss"]) == 9
    left[0] = 10**6
    train(config(tmp_path / "run", tracker="tensorboard"), progress=False)
    again, once = scalars(tmp_path / "run"), scalars(whole / "seen")
    assert len(list((tmp_path / "run/tensorboard").iterdir())) == 2
    for tag in once.keys() - {"seconds"}:
        assert again[tag] == once[tag], tag


class Stub:
    """In the place of one of Accelerate's trackers: remembers what it is told."""

    made = ()

    def __init__(self, project, **options):
        self.project, self.options, self.stored, self.logged = project, options, None, []
        self.finished = False
        self.tracker = types.SimpleNamespace(info=types.SimpleNamespace(run_id="its-own-id"))
        Stub.made = (*Stub.made, self)

    def start(self):
        if self.options.get("run_name") == "refused":
            raise ConnectionError("nobody answers.\nmore")

    def store_init_configuration(self, values):
        self.stored = values

    def log(self, values, step):
        if step >= 30:
            raise OSError("the network is gone")
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


@pytest.fixture
def stubbed(monkeypatch):
    for name in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, name, Stub)
    monkeypatch.setattr(Stub, "made", ())
    monkeypatch.delenv("WANDB_PROJECT", raising=False)


OPTIONS = {"lr": 0.1, "seed": 3, "milestones": [1, 2], "loss": {"name": "CMKD", "alpha": 8.0}, "cache": None}
PLAIN = {
    "lr": 0.1,
    "seed": 3,
    "milestones": "[1, 2]",
    "loss.name": "CMKD",
    "loss.alpha": 8.0,
    "cache": "null",
}


@pytest.mark.usefixtures("stubbed")
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_services_are_told_the_same_run_again(name, tmp_path):
    folder = RunFolder(tmp_path)
    for _ in range(2):
        view = open_live(name, folder)
        view.start(OPTIONS)
        with view.at_work(10, done=0):
            view.epoch({"epoch": 1, "lr": 0.1, "train": {"loss": 2.0}, "histograms": {"w": [1]}})
    first, second = Stub.made
    assert first.project == "cmkd"
    assert first.stored == PLAIN
    assert first.logged == [(10, {"epoch": 1, "lr": 0.1, "train/loss": 2.0})]
    assert first.finished
    if name == "wandb":
        assert first.options == second.options
        assert (first.options["resume"], first.options["name"]) == ("allow", tmp_path.name)
    else:
        assert (first.options["run_id"], second.options["run_id"]) == (None, "its-own-id")
        assert second.stored is None  # it cannot be changed there


@pytest.mark.usefixtures("stubbed")
def test_a_service_that_fails_does_not_end_the_run(tmp_path, caplog):
    view = Live("wandb", RunFolder(tmp_path))
    view.start({})
    with view.at_work(10, done=0):
        for epoch in (2, 3, 4):
            view.epoch({"epoch": epoch, "train": {"loss": 1.0}})
    assert [step for step, _ in Stub.made[0].logged] == [20]
    assert caplog.text.count("the run goes on without it: the network is gone") == 1


@pytest.mark.usefixtures("stubbed")
def test_a_service_that_refuses_from_the_start(tmp_path):
    with pytest.raises(InputError, match=r"--tracker mlflow cannot begin: nobody answers\. .*--tracker none"):
        train(config(tmp_path / "refused", tracker="mlflow"), progress=False)


def test_what_is_not_installed(tmp_path, monkeypatch, capsys):
    for name in ("wandb", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    assert open_live("auto", RunFolder(tmp_path)) is None
    for name in ("wandb", "tensorboard"):
        out = str(tmp_path / name)
        assert main(["train", "--model", "tiny_networks:student", "--tracker", name, "--out", out]) == 2
        assert f'pip install "cmkd[{name}]"' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_tracker():
    with pytest.raises(InputError, match="--tracker is paper; it has to be one of auto, none, tensorboard"):
        TrainConfig(tracker="paper")

"""A run that was stopped, however, ends with the weights of a run that was not, bit for bit."""

import pkgutil
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cmkd.errors import Interrupted
from cmkd.models import read_state_dict
from cmkd.training import DistillConfig, distill
from cmkd.training import loop as loop_module

TESTS = Path(__file__).parents[1]


def config(out, **changes):
    options = {
        "student": "tiny_networks:student",
        "teacher": "tiny_networks:teacher",
        "teacher_weights": "random",
        "epochs": 3,
        "batch_size": 512,
        "validation": 0.05,
        "ema_decay": 0.9,
        "clip_grad": 5.0,
        "out": str(out),
    }
    return DistillConfig(**{**options, **changes})


def weights(folder):
    return read_state_dict(folder.path / "student.safetensors")


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of two epochs that nothing stopped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TESTS))
        torch.set_num_threads(1)
        return distill(config(tmp_path_factory.mktemp("whole") / "run", epochs=2), progress=False)


@pytest.fixture
def listening():
    """Python's own handler, also where the tests run in the background and SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# 18 steps an epoch: before, at and after its end
@pytest.mark.usefixtures("tiny_networks", "listening")
@pytest.mark.parametrize("stops", [[1, 20], [18], [17, 19, 40]])
def test_stopped_between_any_two_steps(tmp_path, monkeypatch, stops):
    whole = distill(config(tmp_path / "whole"), progress=False)
    steps = iter(range(1, 1000))
    step_of = loop_module.Progress.step

    def step(self, epoch, batch, meters):
        if next(steps) in stops:
            signal.raise_signal(signal.SIGINT)
        step_of(self, epoch, batch, meters)

    monkeypatch.setattr(loop_module.Progress, "step", step)
    for _ in stops:
        with pytest.raises(Interrupted):
            distill(config(tmp_path / "stopped"), progress=False)
    stopped = distill(config(tmp_path / "stopped"), progress=False)

    assert_same(weights(whole), weights(stopped))
    rows = [
        [{key: value for key, value in row.items() if key != "seconds"} for row in run.read_metrics()]
        for run in (whole, stopped)
    ]
    assert rows[0] == rows[1]
    assert [row["epoch"] for row in rows[0]] == [1, 2, 3]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


@pytest.mark.usefixtures("tiny_networks")
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(
    ("writer", "calls"),
    [
        ("cmkd.training.run_folder.write_atomic", 1),  # config.yaml
        ("cmkd.training.run_folder.write_atomic", 3),  # environment.json
        ("cmkd.training.run_folder.RunFolder.append_metrics", 2),
        ("cmkd.training.run_folder.RunFolder.save_state", 2),
        ("cmkd.models.save_weights", 1),
        ("cmkd.training.run_folder.write_atomic", 4),  # model.json
        ("cmkd.training.run_folder.write_atomic", 5),  # result.json
    ],
)
def test_killed_around_a_write(tmp_path, monkeypatch, whole, writer, calls, before):
    owner, _, name = writer.rpartition(".")
    original = pkgutil.resolve_name(writer)
    left = [calls]

    def write(*arguments):
        left[0] -= 1
        if left[0] == 0 and before:
            raise Killed
        returned = original(*arguments)
        if left[0] == 0:
            raise Killed
        return returned

    with monkeypatch.context() as patch:
        patch.setattr(pkgutil.resolve_name(owner), name, write)
        with pytest.raises(Killed):
            distill(config(tmp_path / "killed", epochs=2), progress=False)
    killed = distill(config(tmp_path / "killed", epochs=2), progress=False)
    assert_same(weights(whole), weights(killed))
    assert [row["epoch"] for row in killed.read_metrics()] == [1, 2]


@pytest.mark.usefixtures("tiny_networks", "listening")
def test_an_ignored_signal_stays_ignored(tmp_path, monkeypatch, whole):
    step_of = loop_module.Progress.step

    def step(self, epoch, batch, meters):
        signal.raise_signal(signal.SIGINT)
        step_of(self, epoch, batch, meters)

    monkeypatch.setattr(loop_module.Progress, "step", step)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert_same(weights(whole), weights(distill(config(tmp_path / "run", epochs=2), progress=False)))
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_killed_at_random_instants(tmp_path):
    def command(out):
        return [
            *(sys.executable, "-m", "cmkd", "distill", "--student", "tiny_networks:student"),
            *("--teacher", "tiny_networks:teacher", "--teacher_weights", "random", "--epochs", "12"),
            *("--batch_size", "256", "--checkpoint_seconds", "0.1", "--seed", "3", "--out", str(out)),
        ]

    run = {"cwd": TESTS, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command(tmp_path / "whole"), check=True, **run)
    seed = random.randrange(2**32)
    print("seed of the instants:", seed)  # shown if the test fails
    instants = random.Random(seed)
    killed = 0
    for _ in range(2):
        process = subprocess.Popen(command(tmp_path / "killed"), **run)
        begun = time.monotonic()
        while not (tmp_path / "killed/state").exists() and time.monotonic() - begun < 60:
            time.sleep(0.02)
        time.sleep(instants.uniform(0, 2))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed, "every process was through before it was killed: the test tested nothing"
    subprocess.run(command(tmp_path / "killed"), check=True, **run)
    one, other = (read_state_dict(tmp_path / name / "student.safetensors") for name in ("whole", "killed"))
    assert_same(one, other)


@pytest.mark.usefixtures("tiny_networks")
def test_a_finished_run_is_not_run_again(tmp_path):
    first = distill(config(tmp_path / "run", epochs=1), progress=False)
    written = (first.path / "result.json").stat().st_mtime_ns
    distill(config(tmp_path / "run", epochs=1), progress=False)
    assert (first.path / "result.json").stat().st_mtime_ns == written

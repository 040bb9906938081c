"""A run that was stopped, however, ends with the weights of a run that was not, bit for bit."""

import io
import json
import os
import pkgutil
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cmkd.cli import main
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


@pytest.fixture
def shards(tmp_path):
    """400 images in two tar shards."""
    noise = np.random.default_rng(5)
    for shard in range(2):
        with tarfile.open(tmp_path / f"train-{shard}.tar", "w") as tar:
            for number in range(200):
                picture = io.BytesIO()
                Image.fromarray(noise.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(picture, "PNG")
                for ending, content in (("png", picture.getvalue()), ("cls", str(number % 7).encode())):
                    member = tarfile.TarInfo(f"{number:04}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return f"wds:{tmp_path}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["terminated", "interrupted"])
def test_stopped_with_its_workers(tmp_path, shards, number):
    """A launcher, `timeout` and Ctrl-C send the signal to all processes of the group."""
    words = [
        "train",
        "--data",
        shards,
        "--image_size",
        "24",
        "--workers",
        "2",
        "--model",
        "tiny_networks:student",
    ]
    words += ["--epochs", "100000", "--batch_size", "2", "--cpu", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, "-m", "cmkd", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS), "XDG_CACHE_HOME": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # In the background of a shell SIGINT is ignored, and stays so.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        while not (tmp_path / "run/metrics.jsonl").exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        time.sleep(0.5)  # into the second epoch, whose workers are at work then
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert (tmp_path / "run/state/checkpoint.pt").exists()


# Sets in memory with a live teacher; decoded by worker processes, with a cached one.
@pytest.mark.parametrize("stored", [False, True], ids=["memory", "shards-cache"])
def test_killed_ten_times(tmp_path, request, monkeypatch, stored):
    teacher = ["--teacher", "tiny_networks:teacher", "--teacher_weights", "random", "--cpu", "true"]
    options = ["--epochs", "6", "--batch_size", "256", "--seed", "3"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "index"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if stored:
        source = ["--data", request.getfixturevalue("shards"), "--image_size", "24", "--workers", "1"]
        monkeypatch.syspath_prepend(str(TESTS))
        cache = ["cache", str(tmp_path / "logits"), *teacher, *source, "--views", "3"]
        assert main(cache) == 0
        options = ["--epochs", "4", "--batch_size", "16", "--seed", "3", "--augment_seed", "0"]
        options += [*source, "--cache", str(tmp_path / "logits")]

    def train(out, kills):
        words = ["distill", *teacher, "--student", "tiny_networks:student", *options]
        words += ["--checkpoint_seconds", "0.02", "--out", str(out)]
        command = [str(seed), str(kills), "0.4", str(out / "state/checkpoint.pt"), *words]
        done = subprocess.run(
            [sys.executable, str(TESTS / "killing.py"), *command],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split("killed ")[1].split()[0])

    seed = random.randrange(2**32)
    print("seed of the instants:", seed)  # shown if the test fails
    train(tmp_path / "whole", 0)
    assert train(tmp_path / "killed", 10) >= 5, "most attempts were through before they were killed"
    one, other = (read_state_dict(tmp_path / name / "student.safetensors") for name in ("whole", "killed"))
    assert_same(one, other)
    rows = [
        [json.loads(line)["train"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "killed")
    ]
    assert rows[0] == rows[1]  # the means over an epoch: the same images in the same order


@pytest.mark.usefixtures("tiny_networks")
def test_a_finished_run_is_not_run_again(tmp_path):
    first = distill(config(tmp_path / "run", epochs=1), progress=False)
    written = (first.path / "result.json").stat().st_mtime_ns
    distill(config(tmp_path / "run", epochs=1), progress=False)
    assert (first.path / "result.json").stat().st_mtime_ns == written

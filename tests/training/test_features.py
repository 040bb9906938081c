"""Losses on features in a run: layers found, parts learnt, all of it resumed, and the student left alone."""

import json
import signal

import pytest
import torch
from torch import nn

from cmkd import data as datasets
from cmkd.errors import InputError, Interrupted
from cmkd.losses.features import FeatureLoss, FitNetLoss, RKDLoss
from cmkd.models import read_state_dict
from cmkd.teachers.opening import load_run_network
from cmkd.training import DistillConfig, Objective, distill
from cmkd.training import loop as loop_module
from tests import tiny_networks

CRD = {"name": "CRD", "negatives": 64}
pytestmark = pytest.mark.usefixtures("tiny_networks")


def config(out, **changes):
    options = {
        "student": "tiny_networks:staged",
        "teacher": "tiny_networks:staged_teacher",
        "teacher_weights": "random",
        "epochs": 2,
        "batch_size": 64,
        "lr": 0.02,
        "validation": 0.95,
        "cpu": True,
        "out": str(out),
    }
    return DistillConfig(**{**options, **changes})


def flat(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 28 * 28, num_classes))


class Turned(tiny_networks.Staged):
    """Has a layer that puts the channels last."""

    def __init__(self, num_classes):
        super().__init__(num_classes, 6)
        self.turn = Turn()

    def forward(self, x):
        first = self.first(x)
        self.turn(first)
        return self.fc(self.pool(self.second(first)).flatten(1))


class Turn(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1)


class Astray(FeatureLoss):
    """A user's own, which expects another network."""

    def make(self, trial):
        (self.width,) = trial.student


class Lost(Astray):
    def student_rule(self, layers):
        return layers.neck


class Watching(FeatureLoss):
    """Keeps what it was told when it was made."""

    trial = None

    def make(self, trial):
        Watching.trial = trial

    def compare(self, batch):
        assert set(batch.indices.tolist()) <= set(Watching.trial.trained_on.tolist())
        return batch.student[0].mean()


def rows(folder):
    return [json.loads(line)["train"] for line in folder.metrics.read_text().splitlines()]


def weights(folder):
    return read_state_dict(folder.path / "student.safetensors")


def trained(folder):
    """Return what the last checkpoint holds of the student and of the losses."""
    return torch.load(folder.path / "state/checkpoint.pt", weights_only=True)["trained"]


@pytest.mark.parametrize(
    ("loss", "added"),
    [
        *[({"name": name}, {"name": "CMKD"}) for name in ("KD", "DKD", "FitNet", "RKD", "ReviewKD")],
        (CRD, {"name": "CMKD"}),
        ({"name": "CMKD"}, CRD),
        ({"name": "SRRL"}, {"name": "OFD"}),
    ],
    ids=lambda spec: spec["name"],
)
def test_a_sum_of_methods_trains_and_leaves_the_student_alone(tmp_path, loss, added):
    folder = distill(config(tmp_path / "run", loss=loss, with_=[added]), progress=False)
    first, last = rows(folder)
    name = added["name"]
    assert {"task", "distillation", name} <= last.keys()
    task_weight = 0.1 if loss["name"] == "KD" else 1.0  # Hinton's objective gives the labels a tenth
    assert last["loss"] == pytest.approx(
        task_weight * last["task"] + last["distillation"] + last[name], rel=1e-4
    )
    assert last["loss"] < first["loss"]
    assert weights(folder).keys() == tiny_networks.staged(10).state_dict().keys()
    assert folder.read_config()["with"][0]["name"] == name


@pytest.mark.parametrize(
    "methods",
    [
        {"with_": [CRD, {"name": "ReviewKD"}, {"name": "OFD", "weight": 0.01}]},
        {"loss": {"name": "CTKD", "curriculum_epochs": 1.5}},
        {"loss": {"name": "SimKD"}},
    ],
    ids=["features", "CTKD", "SimKD"],
)
def test_a_run_that_was_stopped_ends_the_same(tmp_path, monkeypatch, methods):
    """Projectors and their momentum, banks, labels and the place in the random draws are all in the state.

    So is a temperature that is learnt, and its curriculum follows from the step.
    """
    whole = distill(config(tmp_path / "whole", **methods), progress=False)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    steps = iter(range(1000))
    step_of = loop_module.Progress.step

    def step(self, epoch, batch, meters):
        if next(steps) in (3, 10):
            signal.raise_signal(signal.SIGINT)
        step_of(self, epoch, batch, meters)

    monkeypatch.setattr(loop_module.Progress, "step", step)
    try:
        for _ in range(2):
            with pytest.raises(Interrupted):
                distill(config(tmp_path / "stopped", **methods), progress=False)
        stopped = distill(config(tmp_path / "stopped", **methods), progress=False)
    finally:
        signal.signal(signal.SIGINT, before)
    for what in (weights, trained):
        expected, found = what(whole), what(stopped)
        assert found.keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert rows(stopped) == rows(whole)


@pytest.mark.parametrize(
    ("loss", "added"), [("SimKD", []), ("KD", ["SimKD", "FitNet"])], ids=["alone", "added"]
)
def test_simkd_leaves_a_student_with_its_teachers_classifier(tmp_path, loss, added):
    with_ = [{"name": name, "weight": 10.0} for name in added]
    folder = distill(config(tmp_path / "run", epochs=3, loss={"name": loss}, with_=with_), progress=False)
    first, *_, last = rows(folder)
    term = "SimKD" if added else "distillation"
    assert last[term] < 0.9 * first[term]
    if not added:
        assert last["loss"] == pytest.approx(last[term])
    network, card = load_run_network(folder.path)
    teacher = tiny_networks.staged_teacher(10)
    assert card["network"] == "simkd:12x3:tiny_networks:staged"
    assert torch.equal(network.fc.weight, teacher.fc.weight)
    assert torch.equal(network.fc.bias, teacher.fc.bias)
    new = {name for name in weights(folder) if name.startswith("pool.projector.")}
    assert weights(folder).keys() - new == tiny_networks.staged(10).state_dict().keys()
    assert folder.read_json("layers.json")[term] == [["pool.projector", "pool:input"]]

    data = datasets.load("fashion-mnist-12k")
    mean, std = (torch.tensor(card[name]).view(-1, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        answers = network((data.test.images / 255 - mean) / std).argmax(1)
    accuracy = (answers == data.test.targets).float().mean().item()
    assert accuracy == pytest.approx(folder.read_json("result.json")["test"]["accuracy"], abs=1e-3)


def test_a_method_is_told_what_is_trained_on(tmp_path):
    with_ = [{"name": f"{__name__}.Watching"}]
    distill(config(tmp_path / "run", epochs=1, with_=with_), progress=False)
    trial, images = Watching.trial, datasets.load("fashion-mnist-12k").train
    assert trial.num_samples == len(trial.targets) == len(images)
    assert torch.equal(trial.targets, images.targets)
    part, held_out = datasets.split(images.targets, 0.95, 0)
    assert torch.equal(trial.trained_on, part)
    assert len(held_out) + len(part) == len(images)


def test_what_is_learnt_starts_alike_and_the_student_too(tmp_path):
    """Another method beside it changes neither the student's first weights nor the order of the images."""
    alone = distill(config(tmp_path / "alone", epochs=1, lr=1e-9), progress=False)
    beside = distill(config(tmp_path / "beside", epochs=1, lr=1e-9, with_=[{"name": "VID"}]), progress=False)
    assert rows(beside)[0]["task"] == pytest.approx(rows(alone)[0]["task"], rel=1e-5)


def test_layers_by_name(tmp_path, caplog):
    caplog.set_level("INFO")
    layers = {"student_layers": ["first.0"], "teacher_layers": ["first:preactivation"]}
    named = [{"name": "FitNet", **layers}, {"name": "AT", "weight": 10.0}]
    folder = distill(config(tmp_path / "run", epochs=1, with_=named), progress=False)
    assert rows(folder)[0]["AT"] > 0
    assert folder.read_config()["with"][0]["student_layers"] == ["first.0"]
    assert folder.read_json("layers.json") == {
        "FitNet": [["first.0", "first:preactivation"]],
        "AT": [["first", "first"], ["second", "second"]],
    }
    assert "AT compares first with first, second with second" in caplog.text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cache": "logits"}, r"FitNet compares features.*leave --cache out"),
        ({"compile": "default"}, r"FitNet looks into the networks by hooks.*--compile"),
        ({"fsdp": True}, r"--fsdp"),
        ({"teacher": f"{__name__}:flat"}, r"found no stages.*teacher_layers of the method"),
        ({"with_": [{"name": "FitNet", "wieght": 1.0}]}, r"loss 'FitNet'.*wieght"),
        ({"with_": [{"name": "FitNte"}]}, r"did you mean 'FitNet'"),
        ({"with_": [{"weight": 1.0}]}, r"has no name"),
        ({"with_": [{"name": "KD", "weight": -1.0}]}, r"weight of KD is -1"),
        (
            {"with_": [{"name": f"{__name__}.Astray"}]},
            r"Astray failed to make its parts.*ValueError: too many",
        ),
        (
            {"with_": [{"name": f"{__name__}.Lost"}]},
            r"Lost failed to choose its layers: AttributeError.*neck",
        ),
        ({"with_": [{"name": "AT", "student_layers": ["first", "pool"]}]}, r"give teacher_layers"),
        (
            {"with_": [{"name": "SP", "student_layers": ["frist"], "teacher_layers": ["first"]}]},
            r"'frist'; did you mean 'first",
        ),
        (
            {
                "teacher": f"{__name__}:Turned",
                "with_": [{"name": "FitNet", "student_layers": ["first"], "teacher_layers": ["turn"]}],
            },
            r"layer 'turn' of the teacher gives \(64, 7, 7, 6\).*name it 'turn:channels_last'",
        ),
        ({"with_": [{"name": "FSP", "student_layers": ["pool"], "teacher_layers": ["pool"]}]}, "two or more"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        distill(config(tmp_path / "run", **{"with_": [{"name": "FitNet"}], **changes}), progress=False)
    assert not (tmp_path / "run").exists()


def test_terms_of_one_kind_are_told_apart():
    losses = [FitNetLoss(), FitNetLoss(), RKDLoss()]
    objective = Objective(RKDLoss(), added=[(loss, 1.0) for loss in losses])
    assert [name for name, _ in objective.terms()] == ["distillation", "FitNet", "FitNet_2", "RKD"]

"""A student of several teachers, or of one that expects images of another size."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from cmkd import data as datasets
from cmkd.cli import main
from cmkd.errors import InputError
from cmkd.models import read_state_dict
from cmkd.report import write_report
from cmkd.training import CacheConfig, DistillConfig, TrainConfig, cache, distill, evaluate, train
from tests import tiny_networks

NAMES = ["tiny_networks:teacher", "tiny_networks:staged_teacher"]
pytestmark = pytest.mark.usefixtures("tiny_networks")


@pytest.fixture(autouse=True)
def _few_images(monkeypatch):
    whole = datasets.load("fashion-mnist-12k")
    train, test = (
        datasets.TensorImages(part.images[:count], part.targets[:count])
        for part, count in ((whole.train, 400), (whole.test, 50))
    )
    monkeypatch.setattr(datasets, "load", lambda *_, **__: replace(whole, train=train, test=test))


def config(out, **changes):
    options = {
        "student": "tiny_networks:student",
        "teacher": NAMES,
        "teacher_weights": "random",
        "epochs": 2,
        "batch_size": 64,
        "out": str(out),
    }
    return DistillConfig(**{**options, **changes})


def weights(folder):
    return read_state_dict(folder.path / "student.safetensors")


def test_a_student_of_their_cache_is_the_student_of_the_networks(tmp_path):
    """Bit for bit; and another student than that of either teacher alone."""
    cache(
        CacheConfig(
            path=str(tmp_path / "cache"),
            teacher=NAMES,
            teacher_weights=["random", "random"],
            dtype="float32",
            batch_size=64,
            views=2,
        )
    )
    live = weights(distill(config(tmp_path / "live", views=2), progress=False))
    run = distill(config(tmp_path / "cached", cache=str(tmp_path / "cache")), progress=False)
    alone = weights(distill(config(tmp_path / "alone", teacher=NAMES[0], views=2), progress=False))
    assert all(torch.equal(value, live[key]) for key, value in weights(run).items())
    assert not all(torch.equal(value, live[key]) for key, value in alone.items())
    assert [each["network"] for each in run.read_json("teacher.json")["members"]] == NAMES
    assert run.read_json("result.json")["teacher"] == {
        **evaluate(run.path)["teacher"],
        **{key: value for key, value in run.read_json("result.json")["teacher"].items() if "latency" in key},
    }
    for teachers in (NAMES[::-1], NAMES[1]):
        with pytest.raises(InputError, match=r"teacher's weights \(sha256\): there"):
            distill(
                config(tmp_path / "other", teacher=teachers, cache=str(tmp_path / "cache")), progress=False
            )


def test_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shared = ["--teacher_weights", "random", "--student", "tiny_networks:student", "--epochs", "1"]
    several = ["--teacher", NAMES[0], f"--teacher={NAMES[1]}"]
    assert main(["distill", *several, *shared, "--out", "a"]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert f"teacher: {NAMES[0]} + {NAMES[1]} from random + random" in said
    assert f"normalisation of {NAMES[1]}: mean" in said
    page = (tmp_path / "a/report.html").read_text()
    assert f"the mean of the logits of 2: {NAMES[0]} from random" in page
    (tmp_path / "options.yaml").write_text(
        f"teacher: {json.dumps(NAMES)}\nteacher_weights: [random, random]\n"
    )
    assert main(["distill", "--config", "options.yaml", *shared[2:], "--out", "b"]) == 0
    one, other = ((tmp_path / run / "student.safetensors").read_bytes() for run in "ab")
    assert one == other
    capsys.readouterr()

    assert main(["distill", *several, *shared, "--loss", "FitNet"]) == 2
    assert "FitNet compares the features of one teacher, and --teacher names 2" in capsys.readouterr().err
    assert main(["distill", *several, *shared[2:], "--teacher_weights", "random", "--teacher_weights=x"]) == 2
    assert "x" in capsys.readouterr().err
    assert main(["distill", "--teacher", "[]", *shared]) == 2
    assert "--teacher is an empty list" in capsys.readouterr().err


def test_a_list_of_one_is_the_same_run(tmp_path):
    assert config(tmp_path, teacher=NAMES[:1]).identity() == config(tmp_path, teacher=NAMES[0]).identity()


@pytest.fixture
def larger():
    """A teacher that fails on images of another size than 40 x 40."""
    return {"teacher": f"{__name__}:of_40", "teacher_image_size": 40}


def of_40(num_classes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = tiny_networks.Staged(num_classes, 6)
    network.first = nn.Sequential(nn.Unflatten(2, (40, 1)), nn.Flatten(2, 3), network.first)
    return network


def test_a_teacher_of_another_image_size(tmp_path, larger):
    with pytest.raises(InputError, match=r"failed on an image of 28 x 28.*name that by --teacher_image_size"):
        distill(config(tmp_path / "run", teacher=larger["teacher"]), progress=False)
    path = str(tmp_path / "cache")
    stored = {"dtype": "float32", "batch_size": 64, "views": 2}
    cache(CacheConfig(path=path, teacher_weights="random", **larger, **stored))
    live = distill(config(tmp_path / "live", views=2, **larger), progress=False)
    cached = distill(config(tmp_path / "cached", cache=path, **larger), progress=False)
    assert all(torch.equal(value, weights(live)[key]) for key, value in weights(cached).items())
    assert cached.read_json("teacher.json")["image_size"] == 40
    assert evaluate(live.path)["teacher"]["nll"] == live.read_json("result.json")["teacher"]["nll"]
    page = write_report(tmp_path / "report.html", {"CMKD": [live]}, title="one").read_text()
    assert "resized to 40 x 40" in page


@pytest.mark.parametrize(("of_the_cache", "of_the_run"), [(None, 20), (20, None), (20, 24)])
def test_a_cache_for_another_image_size_of_the_teacher(tmp_path, of_the_cache, of_the_run):
    one = {"teacher": NAMES[0], "teacher_weights": "random"}
    cache(CacheConfig(path=str(tmp_path / "cache"), teacher_image_size=of_the_cache, **one))
    asked = {**one, "cache": str(tmp_path / "cache"), "teacher_image_size": of_the_run}
    with pytest.raises(InputError, match=f"--teacher_image_size: there {of_the_cache}, now {of_the_run}"):
        distill(config(tmp_path / "run", **asked), progress=False)


def test_features_of_a_teacher_of_another_image_size(tmp_path, larger):
    """Its map is larger than the student's, which is bridged."""
    added = [{"name": "AT"}, {"name": "FitNet"}, {"name": "RKD"}]
    student = {"student": "tiny_networks:staged", "lr": 0.01}
    run = distill(config(tmp_path / "run", with_=added, **student, **larger), progress=False)
    first, last = (row["train"] for row in run.read_metrics())
    assert last["loss"] < first["loss"]
    assert last["AT"] > 0


def test_an_ensemble_of_two_image_sizes(tmp_path, capsys):
    mixed = [str(tmp_path / "small"), NAMES[0]]
    train(TrainConfig(model="tiny_networks:student", epochs=1, out=mixed[0]), progress=False)
    card = json.loads((tmp_path / "small/model.json").read_text())
    (tmp_path / "small/model.json").write_text(json.dumps({**card, "image_size": 20}))
    options = ["--teacher", mixed[0], "--teacher", mixed[1], "--teacher_weights", "random", "--epochs", "1"]
    out = tmp_path / "run"
    assert main(["distill", *options, "--student", "tiny_networks:student", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "images of tiny_networks:student: resized to 20 x 20" in said
    assert said.count("resized") == 1
    assert json.loads((out / "teacher.json").read_text())["image_size"] == [20, None]


def test_a_size_that_cannot_be(tmp_path):
    with pytest.raises(InputError, match="--teacher_image_size is 4; it has to be at least 8"):
        config(tmp_path, teacher_image_size=4)
    with pytest.raises(InputError, match="--teacher_image_size say something of --teacher"):
        config(tmp_path, teacher=None, teacher_weights=None, cache="logits", teacher_image_size=40)

"""A student of several teachers: by options, from a cache, and measured again."""

import json

import pytest
import torch

from cmkd import data as datasets
from cmkd.cli import main
from cmkd.errors import InputError
from cmkd.models import read_state_dict
from cmkd.training import CacheConfig, DistillConfig, cache, distill, evaluate

NAMES = ["tiny_networks:teacher", "tiny_networks:staged_teacher"]
pytestmark = pytest.mark.usefixtures("tiny_networks")


@pytest.fixture(autouse=True)
def _few_images(monkeypatch):
    from dataclasses import replace

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

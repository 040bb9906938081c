"""`cmkd evaluate` on runs that have everything, and on runs that lack something."""

import json
import shutil

import pytest
import torch
from PIL import Image

from cmkd.cli import main
from cmkd.data import split
from cmkd.errors import InputError
from cmkd.evaluation import cost
from cmkd.evaluation.calibration import fit_temperature
from cmkd.teachers.opening import load_run_network
from cmkd.training import DistillConfig, RunFolder, TrainConfig, distill, evaluate, train
from tests.bench.in_process import known, squares

pytestmark = pytest.mark.usefixtures("tiny_networks")

SHARED = {"epochs": 1, "batch_size": 512, "workers": 0}


@pytest.fixture(autouse=True)
def no_timing(monkeypatch):
    """Two passes are timed instead of two seconds of them."""
    timed = cost.passes
    monkeypatch.setattr(
        cost, "passes", lambda network, images, runs, warmup, seconds: timed(network, images, 2, 1, 0)
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run with its teacher, once for all tests; they copy it before they change it."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend("tests")
        train(TrainConfig(model="tiny_networks:steady", out=str(root / "teacher"), **SHARED), progress=False)
        distill(
            DistillConfig(
                teacher=str(root / "teacher"),
                student="tiny_networks:student",
                loss={"name": "KD"},
                out=str(root / "student"),
                **SHARED,
            ),
            progress=False,
        )
    return root


def test_everything_is_measured_and_stored(runs, capsys):
    assert main(["evaluate", str(runs / "student"), "--corruptions", "fog,noise", "--severities=1,5",
                 "--corruption-images", "50"]) == 0  # fmt: skip
    out = capsys.readouterr().out
    for words in (
        "95 % confidence",
        "Kendall tau-b",
        "shot_noise",
        "50 images of 2,000, stratified",
        "MACs",
        "gained",
    ):
        assert words in " ".join(out.split())
    found = json.loads((runs / "student/evaluation.json").read_text())
    result = RunFolder(runs / "student").read_json("result.json")
    assert found["student"] == result["test"]
    assert found["accuracy"]["student"]["top1"]["value"] == pytest.approx(result["test"]["accuracy"])
    assert found["calibration"]["student"]["ece"] == pytest.approx(result["test"]["ece"], abs=1e-6)
    assert found["calibration"]["teacher"]["nll"] == pytest.approx(result["teacher"]["nll"], abs=1e-5)
    assert found["fidelity"]["spearman"]["mean"] == pytest.approx(
        result["test"]["rank_correlation"], abs=1e-5
    )
    assert found["fidelity"]["kl"]["mean"] == pytest.approx(result["test"]["teacher_kl"], abs=1e-5)
    assert found["calibration"]["student"]["scaled"]["fitted_on"] == 1000
    assert found["setting"]["images"] == 2000
    assert {"torch", "hardware", "threads", "precision", "revision", "seed"} <= found["setting"].keys()
    assert set(found["robustness"]["corruptions"]) == {"gaussian_noise", "shot_noise", "impulse_noise", "fog"}
    assert found["robustness"]["grey"]
    assert found["cost"]["student"]["parameters"] == result["parameters"]
    assert found["missing"] == {}


def test_the_validation_part_and_another_file(runs, tmp_path):
    found = evaluate(runs / "student", part="validation", out=tmp_path / "some/where.json")
    assert found["setting"]["images"] == 1000
    assert "scaled" not in found["calibration"]["student"]
    assert "measured here" in found["missing"]["temperature"]
    assert "not asked for" in found["missing"]["robustness"]
    assert json.loads((tmp_path / "some/where.json").read_text()) == found


def test_a_teacher_that_is_gone_is_said_in_place(runs, tmp_path, capsys):
    shutil.copytree(runs / "student", tmp_path / "student")
    config = (
        (tmp_path / "student/config.yaml").read_text().replace(str(runs / "teacher"), str(tmp_path / "gone"))
    )
    (tmp_path / "student/config.yaml").write_text(config)
    assert main(["evaluate", str(tmp_path / "student")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "teacher: not at hand" in out
    found = json.loads((tmp_path / "student/evaluation.json").read_text())
    assert "fidelity" not in found
    assert "teacher" not in found


def test_a_network_trained_on_labels(runs, capsys):
    assert main(["evaluate", str(runs / "teacher"), "--corruptions", "contrast", "--severities", "3"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "teacher: the network was trained on labels alone" in out


def test_two_classes_two_images_and_no_validation_part(tmp_path, capsys):
    for part in ("train", "test"):
        for number, name in enumerate(("cat", "dog")):
            folder = tmp_path / "pets" / part / name
            folder.mkdir(parents=True)
            for index in range(4 if part == "train" else 1):
                Image.new("RGB", (16, 16), (40 * index, 200 * number, 17)).save(folder / f"{index}.png")
    shared = {
        "data": f"folder:{tmp_path / 'pets'}",
        "image_size": 16,
        "epochs": 1,
        "batch_size": 4,
        "workers": 0,
        "validation": 0.0,
    }
    run = distill(
        DistillConfig(
            teacher="tiny_networks:teacher",
            teacher_weights="random",
            student="tiny_networks:student",
            loss={"name": "KD"},
            out=str(tmp_path / "run"),
            **shared,
        ),
        progress=False,
    )
    assert main(["evaluate", str(run.path), "--corruptions", "true", "--severities", "1"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for words in (
        "temperature: the run held no validation part out",
        "top5: among 2 classes",
        "non_target_spearman",
    ):
        assert words in out
    found = run.read_json("evaluation.json")
    assert found["setting"]["images"] == 2
    assert not found["robustness"]["grey"]
    assert all(value == value for value in found["student"].values())  # no NaN


def test_what_cannot_be_leaves_nothing_behind(runs, tmp_path, capsys):
    shutil.copytree(runs / "student", tmp_path / "student")
    (tmp_path / "student/evaluation.json").unlink(missing_ok=True)
    before = sorted(entry.name for entry in (tmp_path / "student").iterdir())
    for options, words in (
        (["--corruptions", "fogg"], "did you mean 'fog'"),
        (["--severities", "7"], "--severities is 7"),
        (["--part", "train"], "part"),
        (["--out", str(tmp_path / "student/config.yaml/x.json")], "cannot write"),
        (["--out", str(tmp_path)], "cannot write"),
    ):
        assert main(["evaluate", str(tmp_path / "student"), *options]) == 2
        err = capsys.readouterr().err
        assert words in err
        assert "Traceback" not in err
    assert sorted(entry.name for entry in (tmp_path / "student").iterdir()) == before
    with pytest.raises(InputError, match="no finished run"):
        evaluate(tmp_path)


@pytest.fixture
def overfitted(tmp_path, monkeypatch):
    """A student of seed 0 and its teacher of seed 1, which knows its training images by heart."""
    known(monkeypatch)
    common = {"data": "squares", "batch_size": 24, "validation": 0.25, "cpu": True}
    train(
        TrainConfig(
            model="tiny_networks:student",
            seed=1,
            epochs=60,
            augment="none",
            out=str(tmp_path / "teacher"),
            **common,
        ),
        progress=False,
    )
    distill(
        DistillConfig(
            teacher=str(tmp_path / "teacher"),
            student="tiny_networks:student",
            epochs=1,
            out=str(tmp_path / "student"),
            **common,
        ),
        progress=False,
    )
    return tmp_path


def test_the_teachers_temperature_is_fitted_on_what_it_has_not_seen(overfitted):
    found = evaluate(overfitted / "student", cpu=True)
    data = squares()
    logits = load_run_network(overfitted / "teacher")[0](
        ((data.train.images / 255 - 0.5) / 0.25).contiguous(memory_format=torch.channels_last)
    )
    own, others = (split(data.train.targets, 0.25, seed)[1] for seed in (1, 0))
    temperature = fit_temperature(logits[own].detach(), data.train.targets[own])[0]
    assert found["calibration"]["teacher"]["scaled"]["temperature"] == pytest.approx(temperature, rel=1e-3)
    assert found["calibration"]["teacher"]["scaled"]["fitted_on"] == 24
    # That it matters: on images of which it has seen most, another one is found.
    on_others = fit_temperature(logits[others].detach(), data.train.targets[others])[0]
    assert on_others != pytest.approx(temperature, rel=1e-2)
    assert found["setting"]["teacher"]["trained_on"] == 0


def test_what_the_teacher_was_trained_on_is_said(overfitted, capsys):
    found = evaluate(overfitted / "student", part="validation", cpu=True)
    own, others = (set(split(squares().train.targets, 0.25, seed)[1].tolist()) for seed in (1, 0))
    assert found["setting"]["teacher"]["trained_on"] == len(others - own) > 0
    assert main(["evaluate", str(overfitted / "student"), "--part", "validation"]) == 0
    assert f"The teacher was trained on {len(others - own)} of these images" in capsys.readouterr().out


def test_a_run_that_keeps_off_the_test_set_is_measured_without_it(overfitted, monkeypatch):
    config = (overfitted / "student/config.yaml").read_text()
    (overfitted / "student/config.yaml").write_text(config.replace("test: null", "test: never"))
    known(monkeypatch, poisoned=True)
    assert main(["evaluate", str(overfitted / "student"), "--cpu", "true"]) == 0
    found = json.loads((overfitted / "student/evaluation.json").read_text())
    assert (found["setting"]["part"], found["setting"]["images"]) == ("validation", 24)
    with pytest.raises(AssertionError, match="the test set was opened"):
        evaluate(overfitted / "student", part="test", cpu=True)


def test_a_teacher_of_unknown_training_has_no_temperature(overfitted, capsys):
    (overfitted / "teacher/config.yaml").unlink()
    assert main(["evaluate", str(overfitted / "student"), "--cpu", "true"]) == 0
    assert "teacher_temperature: which of these images" in " ".join(capsys.readouterr().out.split())
    found = json.loads((overfitted / "student/evaluation.json").read_text())["calibration"]
    assert ("scaled" in found["student"], "scaled" in found["teacher"]) == (True, False)


def test_other_classes_in_the_same_number_are_refused(overfitted):
    card = json.loads((overfitted / "student/model.json").read_text())
    (overfitted / "student/model.json").write_text(json.dumps({**card, "classes": list("abdc")}))
    with pytest.raises(InputError, match=r"class 2 was 'd' when .* was trained, and is 'c' in squares now"):
        evaluate(overfitted / "student")


def test_nothing_of_the_measuring_is_random(runs, tmp_path):
    one, other = (
        evaluate(runs / "student", corruptions="snow", corruption_images=64, out=tmp_path / "x.json")
        for _ in range(2)
    )
    for section in ("student", "fidelity", "calibration", "accuracy"):
        assert one[section] == other[section]
    assert one["robustness"]["corruptions"] == other["robustness"]["corruptions"]
    assert torch.is_grad_enabled()

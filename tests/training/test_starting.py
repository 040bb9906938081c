"""Weights that a network starts from: of a file, of another run, of timm; with their classes or others."""

import shutil

import pytest
import timm
import torch
from PIL import Image

from cmkd import data as datasets
from cmkd import models
from cmkd.cli import main
from cmkd.errors import InputError
from cmkd.teachers import open_teacher
from cmkd.training import DistillConfig, TrainConfig, distill, train
from cmkd.training.opened import open_run
from cmkd.training.starting import open_start

#: A step so small that the weights are still those that the run began with.
STILL = {"epochs": 1, "batch_size": 4, "lr": 1e-12, "weight_decay": 0.0, "validation": 0.0}


@pytest.fixture
def pets(tmp_path):
    for kind, colour in (("cat", "red"), ("dog", "blue"), ("hen", "white")):
        for number in range(5):
            file = tmp_path / "pets" / kind / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), colour).save(file)
    return f"folder:{tmp_path / 'pets'}"


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(3)
    network = models.build("resnet8", 3)
    models.save_weights(network, tmp_path / "resnet8.safetensors")
    return tmp_path / "resnet8.safetensors"


def start(pets, **options):
    return open_start(TrainConfig(data=pets, image_size=16, **options), datasets.load(pets, image_size=16))


def test_a_run_starts_from_the_weights_of_a_file(pets, weights, tmp_path):
    common = {"data": pets, "image_size": 16, "model": "resnet8", **STILL}
    given = train(TrainConfig(**common, weights=str(weights), out=str(tmp_path / "given")), progress=False)
    drawn = train(TrainConfig(**common, out=str(tmp_path / "drawn")), progress=False)
    begun, ours, others = (
        models.read_state_dict(file)["fc.weight"]
        for file in (weights, *(run.path / "student.safetensors" for run in (given, drawn)))
    )
    torch.testing.assert_close(ours, begun)
    assert not torch.allclose(others, begun)


def test_a_student_starts_from_its_weights(pets, weights, tmp_path):
    arguments = {**STILL, "teacher": "resnet8", "teacher_weights": "random", "student": "resnet8"}
    arguments |= {"data": pets, "image_size": 16, "student_weights": weights, "out": tmp_path / "run"}
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    assert main(["distill", *words]) == 0
    state = models.read_state_dict(tmp_path / "run/student.safetensors")
    torch.testing.assert_close(state["fc.weight"], models.read_state_dict(weights)["fc.weight"])


@pytest.mark.parametrize("shapes", ["other classes", "no classifier"])
def test_what_is_not_for_these_classes_gets_a_new_classifier(shapes, pets, tmp_path, caplog):
    state = models.build("resnet8", 100).state_dict()
    if shapes == "no classifier":
        state = {name: value for name, value in state.items() if not name.startswith("fc.")}
    torch.save({"state_dict": state}, tmp_path / "body.pth")
    network, _ = start(pets, model="resnet8", weights=str(tmp_path / "body.pth"))
    found = network.state_dict()
    assert found["fc.weight"].shape == (3, 64)
    assert found["fc.weight"].std() > 0
    body = [name for name in state if not name.startswith("fc.")]
    assert all(torch.equal(found[name], state[name]) for name in body)
    assert "that of resnet8 is new" in caplog.text


def test_weights_of_another_network_are_refused_and_nothing_is_written(pets, weights, tmp_path, capsys):
    words = ["--data", pets, "--image_size", "16", "--model", "resnet14", "--out", str(tmp_path / "run")]
    assert main(["train", *words, "--weights", str(weights)]) == 2
    assert "belong to another network" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [("nowhere.pth", "no such file: nowhere.pth"), ("pretrained", "no published weights for 'resnet8'")],
)
def test_weights_that_are_not_to_be_had(given, said, pets):
    with pytest.raises(InputError, match=said):
        start(pets, model="resnet8", weights=given)


@pytest.fixture
def earlier(pets, tmp_path):
    """A run that held a fifth of the images out."""
    common = {"data": pets, "image_size": 16, "model": "resnet8", **STILL, "validation": 0.2}
    return train(TrainConfig(**common, seed=5, out=str(tmp_path / "earlier")), progress=False)


@pytest.mark.parametrize(("seed", "warned"), [(5, False), (6, True)])
def test_a_start_that_has_seen_the_validation_part_is_warned_of(seed, warned, pets, earlier, caplog):
    start(pets, model="resnet8", weights=str(earlier.path), validation=0.2, seed=seed)
    assert ("was trained on images that this run holds out" in caplog.text) == warned
    assert "is new" not in caplog.text


def test_as_many_classes_are_not_the_same_classes(pets, earlier, tmp_path, caplog):
    others = tmp_path / "others"
    shutil.copytree(pets.removeprefix("folder:"), others)
    (others / "cat").rename(others / "ant")
    network, _ = start(f"folder:{others}", model="resnet8", weights=str(earlier.path))
    begun = models.read_state_dict(earlier.path / "student.safetensors")
    assert torch.equal(network.state_dict()["conv1.weight"], begun["conv1.weight"])
    assert not torch.equal(network.state_dict()["fc.weight"], begun["fc.weight"])
    assert "that of resnet8 is new" in caplog.text


def test_a_teacher_by_name_is_normalised_as_the_data_are(pets, tmp_path, monkeypatch):
    """Whatever the student's weights expect."""
    data = datasets.load(pets, image_size=16)
    seen = data.normalised((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    report = open_teacher("resnet8", seen, weights="random")[1]
    assert (report.mean, report.std) == (list(data.mean), list(data.std))
    assert seen.normalised((0.1,) * 3, (0.2,) * 3).usual == (data.mean, data.std)


@pytest.mark.usefixtures("tiny_networks")
def test_a_network_may_state_how_its_images_are_normalised(pets):
    data = datasets.load(pets, image_size=16)
    _, seen = start(pets, model="tiny_networks:stating")
    report = open_teacher("tiny_networks:stating", data, weights="random")[1]
    assert (
        (list(seen.mean), list(seen.std)) == (report.mean, report.std) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    )


def test_a_teacher_that_was_itself_started_from_a_run_may_have_seen_any_image(pets, earlier, tmp_path):
    common = {"data": pets, "image_size": 16, **STILL, "validation": 0.2, "seed": 5}
    for name, weights in (("fresh", None), ("started", str(earlier.path))):
        options = {**common, "model": "resnet8", "weights": weights, "out": str(tmp_path / name)}
        teacher = train(TrainConfig(**options), progress=False)
        options = {
            **common,
            "student": "resnet8",
            "teacher": str(teacher.path),
            "out": str(tmp_path / f"of {name}"),
        }
        run = distill(DistillConfig(**options), progress=False)
        opened = open_run(run.path, None, None, torch.device("cpu"))
        assert (opened.unseen is None) == (weights is not None)
        assert ("is not known" in opened.missing.get("teacher_temperature", "")) == (weights is not None)


def test_a_folder_that_is_no_finished_run(pets, tmp_path):
    with pytest.raises(InputError, match=r"no finished run: it has no model\.json"):
        start(pets, model="resnet8", weights=str(tmp_path))


def test_images_are_normalised_as_the_weights_expect(pets, tmp_path, monkeypatch):
    """Through training, from one run to the next, and when the run is measured later."""
    create_model = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **kwargs: create_model(name, **kwargs))
    half = (0.5, 0.5, 0.5)  # of timm's test networks; images in folders have ImageNet's statistics else
    assert datasets.load(pets).mean != half
    common = {"data": pets, "image_size": 32, "model": "timm:test_resnet", **STILL}
    first = train(TrainConfig(**common, weights="pretrained", out=str(tmp_path / "1")), progress=False)
    config = TrainConfig(**{**common, "lr": 2e-12}, weights=str(first.path), out=str(tmp_path / "2"))
    second = train(config, progress=False)
    for run in (first, second):
        card = run.read_json("model.json")
        assert (card["mean"], card["std"]) == (list(half), list(half))
        opened = open_run(run.path, None, None, torch.device("cpu"))
        assert opened.data.mean == half
        (batch,) = opened.loader.epoch(0)
        assert batch.images.unique().tolist() == [-1.0, 1.0]  # of pure colours, by (x - 0.5) / 0.5

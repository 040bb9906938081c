"""What is kept of a run for its figures, against the networks asked one by one."""

import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from cmkd import data as datasets
from cmkd.data import Loader
from cmkd.errors import InputError
from cmkd.evaluation.corruptions import corrupt
from cmkd.teachers.opening import load_run_network
from cmkd.training import DistillConfig, TrainConfig, distill, train
from cmkd.training.detailing import keep_details
from cmkd.training.details import read_details

pytestmark = pytest.mark.usefixtures("tiny_networks")

SHARED = {"epochs": 1, "batch_size": 512, "workers": 0}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A teacher and a student of it with details of 200 images; read only."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend("tests")
        train(
            TrainConfig(model="tiny_networks:staged_teacher", out=str(root / "teacher"), **SHARED),
            progress=False,
        )
        config = DistillConfig(
            teacher=str(root / "teacher"),
            student="tiny_networks:staged",
            loss={"name": "KD"},
            out=str(root / "student"),
            **SHARED,
        )
        distill(config, progress=False)
        keep_details(root / "student", images=200)
    return root


@pytest.fixture
def details(root):
    return read_details(root / "student")


def asked(run, indices, change=lambda pixels, _: pixels):
    """Return the logits of a run's network for test images, read from the data set again."""
    network, card = load_run_network(run)
    data = datasets.load(card["data"], "data")
    pixels = change(data.test.read(indices), indices)
    loader = Loader(
        type(data.test)(pixels, data.test.targets[indices]), mean=data.mean, std=data.std, batch_size=64
    )
    with torch.no_grad():
        return torch.cat([network(batch.images) for batch in loader.epoch(0)])


def test_logits_and_targets_are_those_of_the_images_named(root, details):
    data = datasets.load("fashion-mnist-12k", "data")
    assert torch.equal(details.targets, data.test.targets[details.indices])
    assert details.targets.bincount().tolist() == [20] * 10
    assert torch.allclose(details.student, asked(root / "student", details.indices), atol=1e-4)
    assert torch.allclose(details.teacher, asked(root / "teacher", details.indices), atol=1e-4)
    assert (details.meta["of"], details.meta["missing"]) == (2000, {})


def test_pictures_show_the_images(details):
    data = datasets.load("fashion-mnist-12k", "data")
    for position in (0, 7, 199):
        shown = np.asarray(Image.open(io.BytesIO(details.picture(position))).convert("L"), dtype=float)
        pixels = data.test.read(details.indices[position : position + 1])[0, 0].numpy()
        assert shown.shape == pixels.shape
        assert np.abs(shown - pixels).mean() < 6  # lossy


def test_elastic_accuracy_is_that_of_the_transformed_images(root, details):
    def bend(pixels, indices):
        return corrupt(pixels, indices, name="elastic_transform", severity=3, seed=0)

    for name in ("student", "teacher"):
        logits = asked(root / name, details.indices, bend)
        expected = (logits.argmax(1) == details.targets).double().mean().item()
        assert details.meta["elastic"]["accuracy"][name] == pytest.approx(expected)


def test_the_slice_has_the_three_images_own_classes_near_their_corners(details):
    found = details.meta["slice"]
    classes = details.array("slice_teacher")
    side = classes.shape[0]
    for position, (x, y) in zip(found["positions"], found["corners"], strict=True):
        column, row = (
            round((at - low) / (high - low) * (side - 1))
            for at, (low, high) in ((x, found["x"]), (y, found["y"]))
        )
        # the nearest point of the grid is half a step away: the network may change its mind on the way
        around = classes[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        assert int(details.targets[position]) in around


def test_the_embedding_has_a_point_for_every_image_of_its_classes(details):
    assert details.array("embedding").shape == (200, 2)
    assert np.bincount(details.array("embedding_targets")).tolist() == [20] * 10
    assert 0 < details.meta["embedding"]["purity"] <= 1


def test_a_run_without_a_teacher_says_what_is_missing(root, tmp_path):
    run = tmp_path / "alone"
    shutil.copytree(root / "teacher", run)
    keep_details(run, images=30)
    details = read_details(run)
    assert details.teacher is None
    assert "trained on labels alone" in details.meta["missing"]["teacher"]
    assert "labels alone" in details.meta["missing"]["slice"]
    assert set(details.meta["elastic"]["accuracy"]) == {"student"}


def test_details_of_other_weights_or_a_damaged_file_are_none(root, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(root / "student", run)
    assert read_details(run) is not None
    shutil.copy(root / "teacher/student.safetensors", run / "student.safetensors")
    assert read_details(run) is None
    shutil.copy(root / "student/student.safetensors", run / "student.safetensors")
    (run / "details.npz").write_bytes((run / "details.npz").read_bytes()[:1000])
    assert read_details(run) is None


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="no run folder"):
        keep_details(tmp_path)


def test_a_run_that_keeps_off_the_test_set_is_not_measured_on_it(root, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(root / "student", run, ignore=shutil.ignore_patterns("details.npz"))
    options = run / "config.yaml"
    assert "test: null" in options.read_text()
    options.write_text(options.read_text().replace("test: null", "test: never"))
    with pytest.raises(InputError, match="--test never"):
        keep_details(run)
    assert not (run / "details.npz").exists()

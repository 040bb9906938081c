import json

import pytest
import torch
from torch import nn

from cmkd import data, models
from cmkd.data import Batch
from cmkd.errors import InputError
from cmkd.teachers import open_teacher
from cmkd.teachers.opening import SHIPPED, run_card, run_folder


@pytest.fixture(scope="module")
def fashion():
    return data.load("fashion-mnist-12k")


def test_weights_from_a_file(fashion, tmp_path):
    network = models.build("resnet8", 10).eval()
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in network.state_dict().items()}},
        tmp_path / "w.pth",
    )
    teacher, report = open_teacher("resnet8", fashion, weights=str(tmp_path / "w.pth"))
    images = torch.randn(2, 3, 28, 28)
    torch.testing.assert_close(teacher.network(images), network(images))
    assert report.normalization == "the data"
    assert report.parameters == sum(parameter.numel() for parameter in network.parameters())


def test_the_hash_follows_the_weights(fashion, tmp_path):
    file, hashes = tmp_path / "w.safetensors", []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.save_weights(models.build("resnet8", 10), file)
        hashes.append(open_teacher("resnet8", fashion, weights=str(file))[1].sha256)
    assert hashes[0] == hashes[1] != hashes[2]


def test_random_weights_are_the_same_whenever_asked_for(fashion):
    state = torch.get_rng_state()
    one, other = (open_teacher("resnet8", fashion, weights="random")[1].sha256 for _ in range(2))
    assert one == other
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_says_the_same_whenever_it_is_opened(fashion, precision):
    """What a cache needs: its writer and the run beside which it is read open the teacher each for itself."""
    batch = Batch(torch.randn(3, 3, 28, 28), torch.zeros(3, dtype=torch.long), torch.arange(3), 0)
    teachers = [open_teacher("resnet8", fashion, weights="random")[0] for _ in range(2)]
    assert all(teacher.folded is not None for teacher in teachers)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        one, other = (teacher(batch) for teacher in teachers)
    assert torch.equal(one, other)


@pytest.mark.usefixtures("tiny_networks")
def test_options_override_what_is_known(fashion):
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.5, 0.5]
    _, report = open_teacher("tiny_networks:teacher", fashion, weights="random", mean=mean, std=std)
    assert (report.mean, report.std, report.normalization) == (mean, std, "the options")


def test_a_run_folder_brings_its_own_normalisation(fashion, tmp_path):
    card = {"network": "resnet8", "num_classes": 10, "mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0]}
    (tmp_path / "model.json").write_text(json.dumps(card))
    models.save_weights(models.build("resnet8", 10), tmp_path / "student.safetensors")
    teacher, report = open_teacher(str(tmp_path), fashion)
    assert report.mean == [0.1, 0.2, 0.3]
    assert teacher.renormalizes


def test_a_run_folder_brings_its_own_image_size(fashion, tmp_path):
    card = {"network": "resnet8", "num_classes": 10, "mean": [0.5] * 3, "std": [0.2] * 3, "image_size": 28}
    models.save_weights(models.build("resnet8", 10), tmp_path / "student.safetensors")
    seen = []
    for trained_on, option, expected in ((28, None, 28), (20, None, 20), (20, 36, 36), (20, 28, 28)):
        (tmp_path / "model.json").write_text(json.dumps({**card, "image_size": trained_on}))
        teacher, report = open_teacher(str(tmp_path), fashion, image_size=option)
        with teacher.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1])):
            teacher(Batch(torch.randn(2, 3, 28, 28), torch.zeros(2), torch.arange(2), 0))
        assert seen[-1] == expected
        assert report.image_size == (None if expected == 28 else expected)


def test_a_network_that_takes_one_size_only(fashion):
    with pytest.raises(InputError, match=r"failed on an image of 28 x 28: .*--teacher_image_size"):
        open_teacher("timm:test_vit", fashion, weights="random")
    teacher, report = open_teacher("timm:test_vit", fashion, weights="random", image_size=160)
    assert teacher(Batch(torch.randn(2, 3, 28, 28), torch.zeros(2), torch.arange(2), 0)).shape == (2, 10)
    assert report.image_size == 160


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "not valid JSON"),
        (b'{"network": "\xff"}', "not valid JSON .*.utf-8. codec"),
        (b'["resnet8"]', "does not hold an object"),
        (b'{"network": "resnet8"}', "lacks mean, num_classes, std"),
    ],
)
def test_a_damaged_run_folder(fashion, tmp_path, content, words):
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(InputError, match=words):
        open_teacher(str(tmp_path), fashion)


def test_a_file_of_a_run_is_not_its_folder():
    with pytest.raises(InputError, match=r"student\.safetensors is a file; give the folder"):
        run_card(SHIPPED / "student.safetensors")


def test_pretrained_weights_for_other_classes_are_refused(fashion, monkeypatch):
    """A teacher with a new, random classifier would teach noise."""

    def build(name, num_classes, *, pretrained):
        network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 28 * 28, num_classes))
        models.factory._mark_new_classifier(network, name, 1000, num_classes)
        return network

    monkeypatch.setattr(models, "build", build)
    with pytest.raises(InputError, match="other classes than the 10"):
        open_teacher("timm:resnet18", fashion, weights="pretrained")


@pytest.mark.usefixtures("tiny_networks")
def test_a_network_that_returns_no_logits(fashion, monkeypatch):
    monkeypatch.setattr("tiny_networks.teacher", lambda num_classes: nn.Identity(), raising=False)
    with pytest.raises(InputError, match=r"logits of shape \(N, classes\)"):
        open_teacher("tiny_networks:teacher", fashion, weights="random")


def test_demo_is_the_teacher_that_ships_unless_there_is_such_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    card = json.loads((run_folder("demo") / "model.json").read_text())
    assert (card["network"], card["num_classes"]) == ("resnet20", 10)
    assert (run_folder("demo") / "student.safetensors").exists()
    (tmp_path / "demo").mkdir()
    assert run_folder("demo").resolve() == tmp_path / "demo"

"""Several teachers as one."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import gmean
from torch import nn

from cmkd import data, models
from cmkd.data import Batch
from cmkd.errors import InputError
from cmkd.teachers import EnsembleTeacher, LiveTeacher, open_teachers
from tests import tiny_networks

pytestmark = pytest.mark.usefixtures("tiny_networks")
NAMES = ["tiny_networks:teacher", "tiny_networks:staged_teacher"]


@pytest.fixture(scope="module")
def fashion():
    return data.load("fashion-mnist-12k")


def batch_of(images):
    return Batch(images, torch.zeros(len(images), dtype=torch.long), torch.arange(len(images)), 0)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_it_says_the_geometric_mean_of_the_distributions(temperature):
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(12, 5)) for _ in range(3)]
    members = [LiveTeacher(each, mean=[0.5] * 3, std=[0.2] * 3) for each in networks]
    images = torch.randn(4, 3, 2, 2)
    said = EnsembleTeacher(members)(batch_of(images)).double().numpy()
    each = [softmax(network(images).detach().double().numpy() / temperature, axis=1) for network in networks]
    expected = gmean(np.stack(each), axis=0)
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(softmax(said / temperature, axis=1), expected, rtol=1e-5)


def test_each_member_is_fed_as_it_was_trained():
    pixels = torch.full((1, 3, 1, 1), 0.5)
    own = LiveTeacher(nn.Flatten(), mean=[0.0] * 3, std=[1.0] * 3)
    other = LiveTeacher(
        nn.Flatten(), mean=[0.0] * 3, std=[1.0] * 3, teacher_mean=[0.1] * 3, teacher_std=[0.1] * 3
    )
    # 0.5 as it is, and (0.5 - 0.1) / 0.1
    torch.testing.assert_close(EnsembleTeacher([own, other])(batch_of(pixels)), torch.full((1, 3), 2.25))


def test_it_stays_in_eval_mode():
    ensemble = EnsembleTeacher([LiveTeacher(nn.BatchNorm2d(3), mean=[0.0] * 3, std=[1.0] * 3)])
    ensemble.train()
    assert not any(module.training for member in ensemble.members for module in member.modules())


def test_weights_go_to_the_networks_by_name_in_their_order(fashion, tmp_path):
    files, states = [], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(models.build("resnet8", 10).state_dict())
        files.append(str(tmp_path / f"{seed}.pt"))
        torch.save(states[-1], files[-1])
    (tmp_path / "run").mkdir()
    models.save_weights(tiny_networks.teacher(10), tmp_path / "run/student.safetensors")
    (tmp_path / "run/model.json").write_text(
        '{"network": "tiny_networks:teacher", "num_classes": 10, "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}'
    )
    names = ["resnet8", str(tmp_path / "run"), "resnet8"]
    ensemble, report = open_teachers(names, fashion, weights=files)
    for place, state in ((0, states[0]), (2, states[1])):
        kernel = ensemble.members[place].network.conv1.weight
        assert torch.equal(kernel.contiguous(), state["conv1.weight"])
    assert [member["source"] for member in report.members] == [files[0], str(tmp_path / "run"), files[1]]
    assert report.mean[3:6] == [0.1, 0.2, 0.3]
    with pytest.raises(InputError, match=r"for 1 networks, but 2 of the teachers.*run folders have theirs"):
        open_teachers(names, fashion, weights=files[:1])
    with pytest.raises(InputError, match=r"for 1 networks, but 0 of the teachers"):
        open_teachers([str(tmp_path / "run")] * 2, fashion, weights="random")
    with pytest.raises(InputError, match=r"--teacher resnet8 and resnet8 have the same weights"):
        open_teachers(names, fashion, weights=files[0])
    with pytest.raises(InputError, match="--teacher resnet8 has no weights"):
        open_teachers(names, fashion)


def test_the_teacher_that_ships_has_its_own_weights(fashion, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    _, report = open_teachers(["demo", NAMES[0]], fashion, weights="random")
    assert [member["network"] for member in report.members] == ["resnet20", NAMES[0]]


def test_the_hash_covers_every_member(fashion):
    def hashed(*names):
        return open_teachers(names, fashion, weights="random")[1].sha256

    three = [*NAMES, "resnet8"]
    known = {hashed(*three), hashed(*NAMES), hashed(NAMES[0], "resnet8"), hashed(NAMES[1], "resnet8")}
    assert len(known) == 4


def test_a_list_of_one_is_that_one(fashion):
    teacher, report = open_teachers(NAMES[:1], fashion, weights=["random"])
    assert isinstance(teacher, LiveTeacher)
    assert report.members == []

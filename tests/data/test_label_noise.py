import pytest
import scipy.stats
import torch

from cmkd.data import Loader, TensorImages, load, split
from cmkd.data.label_noise import with_label_noise
from cmkd.errors import InputError
from cmkd.training import DistillConfig, TrainConfig, train
from cmkd.training.images import open_loaders

pytestmark = pytest.mark.usefixtures("tiny_networks")


def test_the_share_is_that_and_the_other_classes_are_met_alike():
    targets = torch.arange(30000) % 10
    noisy = with_label_noise(targets, 10, 0.4, seed=5)
    wrong = noisy != targets
    assert scipy.stats.binomtest(int(wrong.sum()), 30000, 0.4).pvalue > 0.001
    further = ((noisy - targets) % 10)[wrong].bincount(minlength=10)[1:]
    assert scipy.stats.chisquare(further.numpy()).pvalue > 0.001
    assert 0 <= noisy.min() <= noisy.max() <= 9


def test_it_is_a_function_of_seed_and_index():
    targets = torch.arange(1000) % 7
    whole = with_label_noise(targets, 7, 0.3, seed=1)
    assert torch.equal(with_label_noise(targets[:100], 7, 0.3, seed=1), whole[:100])
    assert not torch.equal(with_label_noise(targets, 7, 0.3, seed=2), whole)
    assert torch.equal(with_label_noise(targets, 7, 0.0, seed=1), targets)
    # More noise adds wrong labels to those of less.
    more = with_label_noise(targets, 7, 0.6, seed=1)
    assert torch.equal(more[whole != targets], whole[whole != targets])


def test_two_classes_change_places():
    noisy = with_label_noise(torch.zeros(200, dtype=torch.long), 2, 0.5, seed=0)
    assert set(noisy.tolist()) == {0, 1}


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_what_cannot_be_is_refused(share):
    with pytest.raises(InputError, match=r"from 0 to below 1"):
        with_label_noise(torch.arange(3), 3, share, seed=0)
    with pytest.raises(InputError, match="--label_noise"):
        TrainConfig(label_noise=share)


def test_a_loader_with_other_targets():
    images = TensorImages(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4))
    loader = Loader(images, mean=(0.5,), std=(0.5,), batch_size=4, targets=torch.tensor([3, 2, 1, 0]))
    assert next(loader.epoch(0)).targets.tolist() == [3, 2, 1, 0]


def test_only_training_labels_are_wrong(processes):
    data = load("fashion-mnist-12k")
    clean, noisy = (
        open_loaders(data, TrainConfig(label_noise=share, workers=0), torch.device("cpu"), processes)
        for share in (None, 0.3)
    )
    for part in ("validation", "test"):
        assert torch.equal(noisy[part].targets, clean[part].targets)
        assert torch.equal(noisy[part].indices, clean[part].indices)
    kept, _ = split(data.train.targets, 0.1, 0)
    wrong = (noisy["train"].targets != data.train.targets)[kept].double().mean().item()
    assert wrong == pytest.approx(0.3, abs=0.02)


@pytest.fixture
def processes():
    from cmkd.training.processes import Processes, open_accelerator

    return Processes(open_accelerator("fp32", cpu=True)[0])


def test_a_run_without_it_is_the_run_from_before_there_was_such_an_option():
    shared = {"teacher": "demo"}
    without, zero, some = (DistillConfig(**shared, label_noise=share) for share in (None, 0.0, 0.2))
    assert zero.identity() == without.identity()
    assert some.identity() != without.identity()
    assert without.identity()["label_noise"] is None


def test_it_is_part_of_what_a_run_is(tmp_path):
    options = {"model": "tiny_networks:student", "epochs": 1, "batch_size": 512, "out": str(tmp_path / "run")}
    folder = train(TrainConfig(**options), progress=False)
    config = (folder.path / "config.yaml").read_text()
    assert "label_noise: null" in config
    (folder.path / "config.yaml").write_text(config.replace("label_noise: null\n", ""))
    train(TrainConfig(**options), progress=False)  # an older folder goes on being that run
    with pytest.raises(InputError, match=r"label_noise: there None, now 0.2"):
        train(TrainConfig(**options, label_noise=0.2), progress=False)

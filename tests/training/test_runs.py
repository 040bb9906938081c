import json

import pytest
import torch

from cmkd import data as datasets
from cmkd.cli_output import print_result
from cmkd.data import Loader
from cmkd.errors import InputError
from cmkd.models import read_state_dict
from cmkd.report import group_runs, write_report
from cmkd.training import DistillConfig, TrainConfig, distill, train
from cmkd.training import runs as runs_module

pytestmark = pytest.mark.usefixtures("tiny_networks")

#: In float32 whatever the CPU has: bfloat16 rounds compiled steps otherwise, and all tests but the last.
TINY = {"batch_size": 512, "epochs": 2, "precision": "fp32"}
TAUGHT = {"student": "tiny_networks:student", "teacher": "tiny_networks:teacher", "teacher_weights": "random"}


def test_the_test_images_are_seen_once_and_after_training(tmp_path, monkeypatch):
    test_images = datasets.load("fashion-mnist-12k").test.images
    seen = []
    epoch_of = Loader.epoch

    def epoch(self, number, start=0):
        part = "test" if torch.equal(self.images.images, test_images) else "train"
        seen.append((part, self.shuffle))
        return epoch_of(self, number, start)

    monkeypatch.setattr(Loader, "epoch", epoch)
    train(TrainConfig(model="tiny_networks:student", out=str(tmp_path / "run"), **TINY), progress=False)
    assert seen == [("train", True), ("train", False)] * 2 + [("test", False)]


def test_the_test_images_are_never_seen_if_they_are_not_to_be(tmp_path, monkeypatch, capsys):
    test_images = datasets.load("fashion-mnist-12k").test.images
    made = Loader.__init__

    def refuse(self, images, **options):
        assert not torch.equal(images.images, test_images), "the test set was opened"
        made(self, images, **options)

    monkeypatch.setattr(Loader, "__init__", refuse)
    with pytest.raises(AssertionError, match="opened"):
        distill(DistillConfig(**TAUGHT, out=str(tmp_path / "default"), **TINY), progress=False)
    run = distill(DistillConfig(**TAUGHT, test="never", out=str(tmp_path / "run"), **TINY), progress=False)
    result = run.read_json("result.json")
    assert not {"test", "images", "teacher"} & result.keys()
    assert result["last_validation"]["accuracy"] == run.read_metrics()[-1]["validation"]["accuracy"]
    page = write_report(tmp_path / "report.html", group_runs([run.path]), title="sealed")
    assert "test set not looked at" in page.read_text(encoding="utf-8")
    print_result(run)
    assert "validation, last epoch" in capsys.readouterr().out


def test_looking_at_the_test_images_after_each_epoch_changes_nothing_else(tmp_path):
    runs = {}
    for test in (None, "each"):
        config = DistillConfig(**TAUGHT, test=test, out=str(tmp_path / str(test)), **TINY)
        runs[test] = distill(config, progress=False)
    once, each = (read_state_dict(run.path / "student.safetensors") for run in runs.values())
    assert all(torch.equal(once[key], each[key]) for key in once)
    rows, result = runs["each"].read_metrics(), runs["each"].read_json("result.json")
    assert [row["test"]["accuracy"] > 0 for row in rows] == [True, True]
    assert rows[-1]["test"] == result["test"] == runs[None].read_json("result.json")["test"]
    assert not any("test" in row for row in runs[None].read_metrics())


def test_validation_images_are_not_trained_on(tmp_path, monkeypatch):
    loaders = {}
    original = runs_module.open_loaders
    monkeypatch.setattr(runs_module, "open_loaders", lambda *args: loaders.update(original(*args)) or loaders)
    train(TrainConfig(model="tiny_networks:student", out=str(tmp_path / "run"), **TINY), progress=False)
    training, validation = (set(loaders[part].indices.tolist()) for part in ("train", "validation"))
    assert not training & validation
    assert len(validation) == 1000
    assert training | validation == set(range(10_000))


def test_every_method_starts_from_the_same_weights_and_sees_the_same_batches(tmp_path, monkeypatch):
    seen = {}
    fit = runs_module.fit

    def spy(student, objective, loader, **options):
        name = type(objective.distillation).__name__
        weights = {key: value.clone() for key, value in student.state_dict().items()}
        seen[name] = (weights, next(loader.epoch(1)).images.clone())
        return fit(student, objective, loader, **options)

    monkeypatch.setattr(runs_module, "fit", spy)
    for loss in ("CE", "KD", "CMKD"):
        config = DistillConfig(**TAUGHT, loss={"name": loss}, out=str(tmp_path / loss), **TINY)
        distill(config, progress=False)
    reference_weights, reference_batch = seen["CELoss"]
    for weights, batch in seen.values():
        assert torch.equal(batch, reference_batch)
        assert all(torch.equal(weights[key], reference_weights[key]) for key in weights)


def test_ce_by_distill_is_train(tmp_path):
    """The baseline of a comparison is not another code path with other numbers."""
    taught = distill(
        DistillConfig(**TAUGHT, loss={"name": "CE"}, out=str(tmp_path / "ce"), **TINY), progress=False
    )
    alone = train(TrainConfig(model=TAUGHT["student"], out=str(tmp_path / "alone"), **TINY), progress=False)
    one, other = (read_state_dict(run.path / "student.safetensors") for run in (taught, alone))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert "rank_correlation" in taught.read_json("result.json")["test"]


def test_the_default_weights_are_spread(tmp_path):
    run = distill(DistillConfig(**TAUGHT, out=str(tmp_path / "run"), **TINY), progress=False)
    counts = torch.tensor(run.read_metrics()[-1]["histograms"]["weight"], dtype=torch.float)
    middles = (torch.arange(20) + 0.5) / 20
    mean = (counts * middles).sum() / counts.sum()
    spread = ((counts * (middles - mean).square()).sum() / counts.sum()).sqrt()
    assert spread > 0.2


def test_another_teacher_is_not_taken_for_the_first(tmp_path, monkeypatch):
    config = DistillConfig(**TAUGHT, out=str(tmp_path / "run"), **TINY)
    distill(config, progress=False)
    (tmp_path / "run/result.json").unlink()  # as if it had been stopped just before its end
    teacher = json.loads((tmp_path / "run/teacher.json").read_text())
    (tmp_path / "run/teacher.json").write_text(json.dumps({**teacher, "sha256": "0" * 64}))
    with pytest.raises(InputError, match=r"000000000000.*another --out"):
        distill(config, progress=False)


def test_options_are_checked_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="unknown loss"):
        distill(DistillConfig(**TAUGHT, loss={"name": "KDD"}, out=str(tmp_path / "run")), progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_compiled_step_trains_as_the_plain_one(tmp_path):
    common = {**TINY, "model": "tiny_networks:steady", "epochs": 1, "lr": 0.01, "validation": 0.0}
    plain = train(TrainConfig(**common, out=str(tmp_path / "plain")), progress=False)
    compiled = train(TrainConfig(**common, out=str(tmp_path / "compiled"), compile="default"), progress=False)
    assert compiled.read_config()["compile"] == "default"
    one, other = (read_state_dict(run.path / "student.safetensors") for run in (plain, compiled))
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5)

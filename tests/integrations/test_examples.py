"""The page on integrations and the example beside it run, and what they train learns."""

import math
import re
import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from cmkd import CMKDLoss
from cmkd.losses import DISTLoss

ROOT = Path(__file__).parents[2]


def blocks(section):
    """Return the Python under one heading of the page."""
    text = (ROOT / "docs/integrations.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"\n## {section}\n(.*?)(?=\n## |\Z)", text, flags=re.DOTALL)
    return re.findall(r"```python\n(.*?)```", found, flags=re.DOTALL)


def test_the_plain_loop_learns(capsys):
    example = ROOT / "examples/plain_loop.py"
    losses = runpy.run_path(str(example))["main"](images=320, batch_size=16)
    assert len(losses) == 20
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    assert math.isfinite(losses[-1])
    assert "epoch 1: loss" in capsys.readouterr().out
    assert len(example.read_text(encoding="utf-8").splitlines()) < 60


def test_the_page_on_lightning(student, teacher, batches, tmp_path, monkeypatch):
    lightning = pytest.importorskip("lightning.pytorch")
    from tests.integrations.test_lightning import Loader, module

    monkeypatch.chdir(tmp_path)
    own = module(lightning.LightningModule, student, validation_step=None)
    inputs, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    before = F.cross_entropy(student.eval()(inputs), labels)
    student.train()
    names = {"L": lightning, "teacher": teacher, "module": own, "loader": Loader(batches)}
    for block in blocks("Lightning"):
        exec(block, names)
    assert F.cross_entropy(student.eval()(inputs), labels) < before
    assert isinstance(names["trainer"].callbacks[0].loss, CMKDLoss)
    assert names["callback"].find_target({"class": 3}) == 3


def test_the_page_on_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    from tests.integrations.test_transformers import classifier, of_tokens

    model, teacher = classifier("Token", seed=1), classifier("Token", width=32, seed=2)
    arguments = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=20, learning_rate=3e-3, logging_steps=1, save_strategy="no",
        report_to="none", use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    names = {"model": model, "teacher": teacher, "arguments": arguments, "dataset": of_tokens()}
    (code,) = blocks("Transformers")
    exec(code, names)
    losses = [row["loss"] for row in names["trainer"].state.log_history if "loss" in row]
    assert losses[-1] < 0.8 * losses[0]


def test_the_page_on_timm():
    pytest.importorskip("timm.task")
    from tests.integrations.test_timm import CLASSES, as_the_script_calls_it, tiny

    one_line, another_loss, loop = blocks("timm")
    names = {}
    exec(one_line, names)
    default = as_the_script_calls_it(tiny(), tiny(), make=names["LogitDistillationTask"])
    exec(another_loss, names)
    other = as_the_script_calls_it(tiny(), tiny(), make=names["LogitDistillationTask"])
    assert (type(default.distillation), type(other.distillation)) == (CMKDLoss, DISTLoss)

    student, teacher = tiny(seed=1), tiny(seed=2)
    images, target = torch.randn(8, 3, 32, 32), torch.arange(8) % CLASSES
    optimizer = torch.optim.SGD(student.parameters(), lr=0.003)
    before = CMKDLoss()(student(images), teacher.eval()(images))
    names.update(torch=torch, student=student, teacher=teacher, optimizer=optimizer)
    names["loader"] = [(images, target)] * 10
    exec(loop, names)
    assert CMKDLoss()(student(images), teacher(images)) < 0.8 * before
    assert names["result"].keys() == {"loss", "output", "task_loss", "kd_loss"}

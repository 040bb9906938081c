"""The Python in README and CONTRIBUTING runs, and does what the text says."""

import contextlib
import json
import math
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml

ROOT = Path(__file__).parents[1]


def python_blocks(name):
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_loop_of_the_readme_learns():
    torch.manual_seed(0)
    images = torch.randn(64, 8)
    teacher, student = torch.nn.Linear(8, 5), torch.nn.Linear(8, 5)
    target = teacher(images).argmax(1)
    before = (student(images).argmax(1) == target).float().mean()
    names = {
        "teacher": teacher,
        "student": student,
        "loader": [(images, target)] * 40,
        "optimizer": torch.optim.SGD(student.parameters(), lr=0.1),
    }
    loop, _ = python_blocks("README.md")
    exec(loop, names)
    after = (student(images).argmax(1) == target).float().mean()
    assert after > before + 0.3
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_ranks_of_the_readme_are_what_they_are_said_to_be():
    _, lines = python_blocks("README.md")
    student, teacher = torch.randn(4, 9, requires_grad=True), torch.randn(4, 9)
    valid = torch.arange(9) < 7
    names = {"student_logits": student, "teacher_logits": teacher, "valid_classes": valid, "scores": student}
    exec(lines, names)
    assert 0 < names["loss"] < 2
    names["loss"].backward()
    assert (student.grad[:, valid] != 0).any()
    assert (student.grad[:, ~valid] == 0).all()
    torch.testing.assert_close(names["ranks"].sum(1), torch.full((4,), 45.0))


def test_the_method_of_the_contributing_page_is_found_by_name(tmp_path, monkeypatch):
    import cmkd.losses

    (code,) = python_blocks("CONTRIBUTING.md")
    (tmp_path / "mse.py").write_text(code)
    monkeypatch.setattr(cmkd.losses, "__path__", [*cmkd.losses.__path__, str(tmp_path)])
    try:
        loss = cmkd.losses.resolve("MSE")()
        assert "MSE" in cmkd.losses.available()
        student, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 2.0]])
        assert loss(student, teacher).item() == pytest.approx(2.0)  # ((1-3)^2 + 0) / 2
    finally:
        sys.modules.pop("cmkd.losses.mse", None)


def test_the_loop_of_the_page_on_features_learns():
    from cmkd.models import build

    torch.manual_seed(0)
    images = torch.randn(32, 3, 8, 8)
    teacher, student = build("resnet14", 4).eval(), build("resnet8", 4)
    target = teacher(images).argmax(1)
    names = {
        "teacher": teacher,
        "student": student,
        "images": images,
        "dataset": images,
        "loader": [(images, target, torch.arange(32))] * 8,
    }
    (loop,) = python_blocks("docs/features.md")
    before = F.cross_entropy(student(images), target)
    exec(loop, names)
    assert F.cross_entropy(student(images), target) < before
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not student._forward_hooks


@pytest.fixture
def few_images(monkeypatch):
    """The embedded images, but few of them: what a page shows is about the commands."""
    from cmkd import data

    whole = data.load("fashion-mnist-12k")
    train, test = (
        data.TensorImages(part.images[:count], part.targets[:count])
        for part, count in ((whole.train, 300), (whole.test, 50))
    )
    monkeypatch.setattr(data, "load", lambda *_, **__: replace(whole, train=train, test=test))


@pytest.mark.usefixtures("few_images")
def test_the_page_on_methods_of_ones_own(tmp_path, monkeypatch, capsys):
    """Its files are written, its commands and its Python run in their order, all to the letter."""
    from cmkd.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    text = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    done = []
    try:
        for before, language, block in re.findall(r"([^\n]*)\n\n```(\w*)\n(.*?)```", text, flags=re.DOTALL):
            file = re.match(r"As `(\w+\.py)`", before)
            if file:
                (tmp_path / file[1]).write_text(block)
            elif language == "python":
                exec(block, {})
            else:
                for line in block.strip().splitlines():
                    with contextlib.suppress(SystemExit):  # of --help
                        assert main(shlex.split(line)[1:]) == 0, capsys.readouterr().err
            done.append(file[1] if file else language or block.split()[1])
    finally:
        sys.modules.pop("jensen_shannon", None)
        sys.modules.pop("cosine", None)
    assert done == ["train", "jensen_shannon.py", "distill", "python", "cosine.py", "distill", "python"]

    said = capsys.readouterr().out
    assert "--loss.temperature TEMPERATURE" in said
    assert "Divides the logits of both." in said
    (tmp_path / "runs/both/config.yaml").read_text().index("name: cosine.CosineLoss")
    rows = {run: (tmp_path / f"runs/{run}/metrics.jsonl").read_text() for run in ("logits", "both", "python")}
    terms = [json.loads(text.splitlines()[-1])["train"] for text in rows.values()]
    assert [("Cosine" in each, each["distillation"] > 0) for each in terms] == [
        (False, True),
        (True, True),
        (True, True),
    ]
    assert 0 < terms[1]["Cosine"] <= 10  # 5 x (1 - cosine)
    assert terms[0]["distillation"] < math.log(2)  # the most that the divergence can be


def test_the_table_of_the_page_on_features_is_right():
    from cmkd.losses.discovery import available_on_features

    text = (ROOT / "docs/features.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:2] == "| "
    ]
    table = {row[0]: row for row in rows[1:]}
    methods = available_on_features()
    assert table.keys() == methods.keys()
    for name, (_, _, _, weight, _, across_batch) in table.items():
        assert methods[name]().weight == float(weight), name
        assert methods[name]().across_batch == (across_batch == "yes"), name


@pytest.mark.parametrize("study", ["demo", "cifar100-resnet20-resnet8"])
def test_the_tables_of_runs_come_from_the_committed_ones(study):
    from cmkd.report import group_runs, markdown_table

    runs = [ROOT / "results" / study / f"{method}-seed0" for method in ("ce", "kd", "cmkd")]
    table = markdown_table(group_runs(runs))
    assert table in (ROOT / "results" / study / "table.md").read_text(encoding="utf-8")
    assert study != "demo" or table in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("few_images")
def test_the_network_of_ones_own_is_trained(tmp_path, monkeypatch, capsys):
    from cmkd.cli import main

    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/networks.md").read_text(encoding="utf-8")
    code, _ = python_blocks("docs/networks.md")
    (command,) = re.findall(r"^cmkd (distill .*my_networks:small.*)$", text, flags=re.MULTILINE)
    (tmp_path / "my_networks.py").write_text(code)
    try:
        assert main(shlex.split(command)) == 0, capsys.readouterr().err
    finally:
        sys.modules.pop("my_networks", None)
    assert json.loads((tmp_path / "runs/small/model.json").read_text())["network"] == "my_networks:small"


def test_the_defaults_of_the_page_on_training_are_those_of_a_run():
    from cmkd.training import TrainConfig

    text = (ROOT / "docs/training.md").read_text(encoding="utf-8").partition("## Teacher cache")[0]
    rows = re.findall(r"^\| (`--.*?) \| (.*?) \|", text, flags=re.MULTILINE)
    assert len(rows) == 12
    for options, defaults in rows:
        names = re.findall(r"`--(\w+)`", options)
        values = [yaml.safe_load(value) for value in defaults.split(", ")]
        assert [getattr(TrainConfig(), name) for name in names] == values


def test_the_layers_of_the_page_on_networks_are_found():
    _, code = python_blocks("docs/networks.md")
    names = {}
    exec(code, names)
    comments = re.findall(r"layers\.(\w+) +# (.+)", code)
    assert len(comments) == 3
    assert {name: repr(getattr(names["layers"], name)) for name, _ in comments} == dict(comments)


def launched():
    """Return the `accelerate launch` commands of the page on training, with their variables filled in."""
    text = (ROOT / "docs/training.md").read_text(encoding="utf-8").replace("\\\n", " ")
    (manifest,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    (_, job) = yaml.safe_load_all(manifest)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    lines = [line for line in text.partition("```yaml")[0].splitlines() if "-m cmkd" in line]
    for line in [*lines, *container["args"]]:
        line = re.sub(r"\$\(\(.*?\)\)|\$SLURM\w+|\$JOB_\w+", "2", line).replace("$MAIN_ADDRESS", "10.0.0.1")
        yield shlex.split(line.partition("accelerate launch ")[2].rstrip("'"))


def test_the_commands_for_several_processes_have_options_that_exist():
    from accelerate.commands.launch import launch_command_parser

    from cmkd.cli_options import parse

    seen = []
    for command in launched():
        given = launch_command_parser().parse_args(command)
        assert given.module
        assert given.multi_gpu
        assert given.num_processes > 1
        assert given.training_script == "cmkd"
        verb, _ = parse(given.training_script_args)
        seen.append((verb, given.num_machines))
    assert seen == [("cache", None), ("distill", None), ("distill", 2), ("distill", 2), ("distill", 2)]

"""The command line as a user meets it: what it takes, and what it says to what it cannot take."""

import io
import json
import os
import pickle
import re
import sys
from urllib.error import URLError

import pytest
import torch
import yaml
from PIL import Image

from cmkd import cli, models
from cmkd.cli import main
from cmkd.cli_options import parse
from cmkd.cli_output import print_table

TINY = [
    "--student",
    "tiny_networks:student",
    "--teacher",
    "tiny_networks:teacher",
    "--teacher_weights",
    "random",
]

pytestmark = pytest.mark.usefixtures("tiny_networks")


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Call the command line in an empty folder; return status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return call


def assert_refused(answer, *words):
    """Status 2, one line that holds the words, and nothing that looks like a traceback."""
    status, out, err = answer
    assert status == 2, err
    assert out == ""
    last = err.strip().splitlines()[-1]
    assert last.startswith("cmkd: error: "), err
    assert "Traceback" not in err
    for word in words:
        assert word in last


def folder_of_images(root, classes=("cat", "dog"), count=8, size=12):
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (size, size), (40 * index, 90 * number, 17)).save(root / name / f"{index}.png")
    return root


def test_distill_evaluate_and_come_back(run, tmp_path):
    command = [
        "distill",
        *TINY,
        "--epochs",
        "2",
        "--batch-size",
        "256",
        "--loss",
        "CMKD",
        "--loss.alpha",
        "8",
    ]
    status, out, err = run(*command, "--out", "kept")
    assert status == 0, err
    assert "teacher: tiny_networks:teacher" in out
    assert "rank correlation with teacher" in out
    kept = tmp_path / "kept"
    assert {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "student.safetensors",
        "model.json",
        "report.html",
        "README.md",
    } <= {entry.name for entry in kept.iterdir()}
    assert yaml.safe_load((kept / "config.yaml").read_text())["loss"]["alpha"] == 8.0
    assert len((kept / "metrics.jsonl").read_text().splitlines()) == 2

    # The same measurement again, from the files alone.
    result = json.loads((kept / "result.json").read_text())
    status, out, err = run("evaluate", "kept")
    assert status == 0, err
    assert f"{result['test']['accuracy']:.2%}" in out
    assert "95 % confidence interval" in (kept / "README.md").read_text()

    # The folder as a configuration: the same run, found finished.
    status, _, err = run("distill", "--config", "kept/config.yaml", "--out", "kept")
    assert status == 0, err
    assert "is finished" in err


def test_the_run_is_a_teacher_in_turn(run):
    assert (
        run("train", "--model", "tiny_networks:student", "--epochs", 1, "--batch_size", 512, "--out", "big")[
            0
        ]
        == 0
    )
    status, out, err = run(
        *("distill", "--teacher", "big", "--student", "tiny_networks:student", "--epochs", 1),
        *("--batch_size", 512, "--loss", "KD", "--out", "small"),
    )
    assert status == 0, err
    assert "from its run folder" in out


def test_own_images_own_network_own_loss(run, tmp_path):
    folder_of_images(tmp_path / "pets", classes=("cat", "cow", "dog"), count=10)
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Distance(nn.Module):\n"
        "    def __init__(self, *, scale: float = 1.0):\n"
        "        super().__init__()\n        self.scale = scale\n"
        "    def forward(self, student_logits, teacher_logits, target):\n"
        "        return self.scale * (student_logits - teacher_logits).square().mean()\n"
    )
    status, _, err = run(
        *("distill", *TINY, "--data", "folder:pets", "--image_size", 16, "--workers", 0, "--epochs", 1),
        *("--batch_size", 4, "--loss", "mine.Distance", "--loss.scale", 0.5, "--out", "own"),
    )
    assert status == 0, err
    assert yaml.safe_load((tmp_path / "own/config.yaml").read_text())["loss"] == {
        "name": "mine.Distance",
        "scale": 0.5,
    }


def test_report_pools_seeds_and_nothing_else(run, tmp_path):
    for seed, alpha in [(0, 8), (1, 8), (0, 2)]:
        options = ["--epochs", 1, "--batch_size", 512, "--loss.alpha", alpha, "--seed", seed]
        assert run("distill", *TINY, *options, "--out", f"{alpha}-{seed}")[0] == 0
    status, out, err = run("report", "8-0", "8-1", "2-0", "--out", "page.html", "--images", 30)
    assert status == 0, err
    accuracy = [
        json.loads((tmp_path / f"8-{seed}/result.json").read_text())["test"]["accuracy"] for seed in (0, 1)
    ]
    row = next(line for line in out.splitlines() if "CMKD (alpha 8.0)" in line)
    assert f"{100 * sum(accuracy) / 2:.2f} ±" in row
    assert "CMKD (alpha 2.0)" in out
    assert (tmp_path / "page.html").stat().st_size > 100_000
    assert_refused(run("report", "8-0", "absent"), "absent", "no run folder")
    assert_refused(run("report", "8-0", "page.html"), "page.html", "no run folder")


def test_list(run):
    networks = run("list", "models")[1]
    assert re.search(r"resnet8x4 +1,233,540 +177\.1 M +32 x 32", networks)
    assert "wrn_DEPTH_WIDTH" in networks
    losses = run("list", "losses")[1]
    assert "CMKD" in losses
    assert "ReviewKD (Chen et al. 2021)" in losses
    assert "cifar100" in run("list", "datasets")[1]


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("distill --teacher demo --cpu", "cpu", True),
        ("distill --cpu --teacher demo", "cpu", True),
        ("distill --cpu true --teacher demo", "cpu", True),
        ("distill --teacher demo --nesterov false", "nesterov", False),
        ("bench --dry-run grid.yaml", "dry_run", True),
        ("bench grid.yaml --dry_run=false", "dry_run", False),
        ("cache logits --verify", "verify", True),
        ("predict run --json one.png two.png", "json", True),
        ("predict run one.png --json", "images", ["one.png"]),
        (
            "distill --teacher demo --loss KD --loss.logit_standardization",
            "loss",
            {"name": "KD", "alpha": 0.9, "temperature": 4.0, "logit_standardization": True},
        ),
    ],
)
def test_what_is_true_or_false_may_stand_alone(line, name, value):
    _, options = parse(line.split())
    assert getattr(options, name) == value


@pytest.mark.parametrize("show", [print, lambda line: print_table([line], [])])
@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_leaves_ends_it_quietly(show, buffered, monkeypatch, capsys):
    """As in `cmkd list models | head -1`, whether a plain line or a table is what nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setitem(cli.VERBS, "list", show)
    with os.fdopen(writing, "wb", buffering=-1 if buffered else 0) as pipe:
        stdout = io.TextIOWrapper(pipe, write_through=not buffered)
        monkeypatch.setattr(sys, "stdout", stdout)
        try:
            status = main(["list", "models"])
        except SystemExit as left:  # rich looks for itself
            status = left.code
        stdout.flush()
    assert status == 1
    assert capsys.readouterr().err == ""


def test_another_pipe_that_breaks_keeps_its_traceback(monkeypatch):
    def broken(kind):
        raise BrokenPipeError("between processes")

    monkeypatch.setitem(cli.VERBS, "list", broken)
    with pytest.raises(BrokenPipeError, match="between processes"):
        main(["list", "models"])


def test_methods_are_added(run, tmp_path):
    staged = ["--student", "tiny_networks:staged", "--teacher", "tiny_networks:staged_teacher"]
    short = ["--teacher_weights", "random", "--epochs", "1", "--validation", "0.95", "--cpu", "true"]
    added = ["--with", "AT", "--with.weight", "2", "--with=FitNet", "--with.student-layers=[first]"]
    added += ["--with.teacher-layers", "[first]"]
    status, _, errors = run("distill", *staged, *short, *added, "--loss", "KD", "--out", "typed")
    assert status == 0, errors
    config = yaml.safe_load((tmp_path / "typed/config.yaml").read_text())
    first, second = config["with"]
    assert (first["name"], first["weight"], first["p"]) == ("AT", 2, 2)
    assert (second["name"], second["student_layers"]) == ("FitNet", ["first"])
    assert "KD + AT + FitNet" in run("report", "typed", "--images", 0)[1]
    (tmp_path / "options.yaml").write_text(
        "with:\n- {name: AT, weight: 2}\n- {name: FitNet, student_layers: [first], teacher_layers: [first]}\n"
    )
    status, _, errors = run(
        "distill", *staged, *short, "--config", "options.yaml", "--loss", "KD", "--out", "written"
    )
    assert status == 0, errors
    assert yaml.safe_load((tmp_path / "written/config.yaml").read_text())["with"] == config["with"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["distill", *TINY, "--with", "ReviewKD", "--with.wieght", "1"], ["ReviewKD", "--with.weight"]),
        (["distill", *TINY, "--with", "ReviewDK"], ["ReviewDK", "ReviewKD"]),
        (["distill", *TINY, "--with.weight", "1"], ["--with.weight", "--with ReviewKD"]),
        (["distill", *TINY, "--with"], ["--with is given without a value"]),
        (["distill", *TINY, "--with", "--epochs", "1"], ["--with is given without", "--epochs", "method"]),
        (["distill", *TINY, "--with="], ["--with is given without a value"]),
        (
            ["distill", *TINY, "--with", "AT", "--with.weight", "--epochs", "1"],
            ["--with.weight is given without a value", "--epochs"],
        ),
        (
            ["distill", *TINY, "--with", "AT", "--with.weight", "much"],
            ["--with AT", "--with.weight: ", "much", "--with.help"],
        ),
        (["distill", *TINY, "--with", "AT", "--with.weight", "-1"], ["weight is -1"]),
        (
            ["distill", *TINY, "--with", "AT", "--with.student_layers", "[2]"],
            ["student_layers", "[2]", "'2'"],
        ),
        (["train", "--with", "AT"], ["--with AT", "cmkd distill"]),
        (["distil"], ["distil", "distill"]),
        ([], ["demo", "distill", "evaluate"]),
        (["distill"], ["--teacher is required"]),
        (["distill", *TINY, "--epoch", "3"], ["--epoch", "--epochs"]),
        (["distill", *TINY, "--loss.alhpa", "8"], ["--loss.alhpa", "--loss.alpha"]),
        (["distill", *TINY, "--loss", "CMDK"], ["CMDK", "CMKD"]),
        (["distill", *TINY, "--loss.tau", "0"], ["tau", "0"]),
        (["distill", *TINY, "--loss.rank_method", "laplac"], ["rank_method", "laplac", "laplace"]),
        (["distill", *TINY, "--loss", "nowhere.Loss"], ["nowhere"]),
        (["distill", *TINY, "--data", "cifar-100"], ["cifar-100", "cifar100"]),
        (["distill", *TINY, "--student", "resnet9"], ["resnet9", "resnet8"]),
        (["distill", *TINY, "--student", "timm:resnet1"], ["resnet1", "resnet18"]),
        (["distill", *TINY, "--student", "tiny_networks:studnt"], ["studnt", "student"]),
        (["distill", *TINY, "--augment", "crop"], ["crop", "crop_flip"]),
        (["distill", *TINY, "--epochs", "many"], ["--epochs", "many"]),
        (["distill", *TINY, "--epochs", "0"], ["--epochs is 0", "at least 1"]),
        (["distill", *TINY, "--precision", "fp8"], ["--precision", "fp8"]),
        (["distill", *TINY, "--precision", "fp16", "--cpu", "true"], ["fp16", "bf16"]),
        (["distill", *TINY, "--batch_size", "20000"], ["20000", "9000"]),
        (["distill", "--teacher", "resnet20"], ["resnet20", "--teacher_weights"]),
        (["distill", "--teacher", "resnet20", "--teacher_weights", "none.pt"], ["none.pt"]),
        (["distill", *TINY, "--teacher_mean", "[0.5,0.5,0.5]"], ["--teacher_mean", "--teacher_std"]),
        (["distill", *TINY, "--teacher_mean", "[0.5]", "--teacher_std", "[0.5]"], ["1 values", "3 channels"]),
        (
            ["distill", "--teacher", "tiny_networks:broken", "--teacher_weights", "random"],
            ["tiny_networks:broken"],
        ),
        (["train", "--model", "tiny_networks:broken"], ["tiny_networks:broken", "28 x 28"]),
        (["train", "--model", "tiny_networks:seven"], ["tiny_networks:seven", "7 classes", "10"]),
        (["distill", "--teacher", "runs/typo"], ["runs/typo", "no such run folder"]),
        (["demo", "--seeds", "0"], ["--seeds is 0"]),
        (["distill", *TINY, "--config", "absent.yaml"], ["absent.yaml"]),
        (["distill", *TINY, "--data", "folder:absent"], ["absent"]),
        (["evaluate", "absent"], ["absent", "no finished run"]),
        (["list", "modles"], ["modles"]),
    ],
)
def test_what_cannot_be_used_is_named(run, tmp_path, arguments, words):
    assert_refused(run(*arguments), *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("with: ReviewKD", ["`with`", "'ReviewKD'", "[{name: ReviewKD}]"]),
        ("with: {name: KD}", ["`with`", "list"]),
        ("with: [ReviewKD]", ["'ReviewKD'", "{name: "]),
        ("with: [{name: 3}]", ["{'name': 3}", "{name: "]),
        ("with: [{name: KDD}]", ["'KDD'", "'KD'"]),
        ("with: [{name: broken_loss.Loss}]", ["broken_loss.Loss", "RuntimeError: not today"]),
        ("with: [{name: KD, wieght: 1}]", ["KD", "'wieght'", "weight"]),
        ("with: [{name: KD, weight: abc}]", ["KD", "weight: ", "float", "abc"]),
        ("with: [{name: KD, weight: null}]", ["weight of KD is None"]),
        ("with: [{name: AT, student_layers: [2]}]", ["AT", "student_layers", "[2]", "'2'"]),
        ("with: [{name: AT, student_layers: 2}]", ["AT", "student_layers", "[layer2, layer3]"]),
        ("loss: {name: 3}", ["not by 3"]),
        ("loss: {name: KD, alpha: abc}", ["--loss.alpha", "abc"]),
        ("loss: [KD]", ["['KD']", "{name: "]),
    ],
)
def test_what_a_file_says_wrongly_of_methods_is_named(run, tmp_path, text, words):
    (tmp_path / "broken_loss.py").write_text("raise RuntimeError('not today')")
    (tmp_path / "options.yaml").write_text(f"{text}\n")
    assert_refused(run("distill", *TINY, "--config", "options.yaml", "--out", "run"), *words)
    assert not (tmp_path / "run").exists()


def test_methods_on_the_command_line_replace_those_of_a_file(tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("teacher: resnet20\nwith: [{name: AT}, {name: RKD, angle_weight: 7}]\n")
    of_file = parse(["distill", "--config", str(file)])[1].with_
    assert [(each["name"], each.get("angle_weight")) for each in of_file] == [("AT", None), ("RKD", 7)]
    given = parse(["distill", "--with", "KD", "--config", str(file), "--with.weight=2"])[1].with_
    assert [(each["name"], each["weight"]) for each in given] == [("KD", 2)]


def test_the_options_of_an_added_method_are_shown(capsys):
    with pytest.raises(SystemExit) as left:
        main(["distill", "--with", "KD", "--with.help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert "cmkd distill --with KD" in shown
    assert "--with.temperature" in shown
    assert "--with.weight" in shown


def test_missing_data_says_where_it_belongs(run, monkeypatch):
    def unreachable(*_, **__):
        raise URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    assert_refused(run("train", "--data", "cifar100", "--data_root", "here"), "cifar100", "here")


def test_class_counts_that_differ(run, tmp_path):
    folder_of_images(tmp_path / "pets")
    assert (
        run("train", "--model", "tiny_networks:student", "--epochs", 1, "--out", "ten", "--batch_size", 512)[
            0
        ]
        == 0
    )
    answer = run("distill", "--teacher", "ten", "--data", "folder:pets", "--batch_size", 4, "--out", "two")
    assert_refused(answer, "10 classes", "has 2")
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: [file.unlink() for file in root.rglob("*.png")], ["no images"]),
        (
            lambda root: [file.unlink() for file in (root / "dog").iterdir()] + [(root / "dog").rmdir()],
            ["one class folder"],
        ),
    ],
)
def test_folders_that_are_no_data_set(run, tmp_path, change, words):
    change(folder_of_images(tmp_path / "pets"))
    assert_refused(run("train", "--data", "folder:pets", "--batch_size", 4, "--out", "run"), *words)
    assert not (tmp_path / "run").exists()


def test_a_truncated_image_is_named(run, tmp_path):
    file = folder_of_images(tmp_path / "pets", size=64) / "dog/3.png"
    file.write_bytes(file.read_bytes()[:60])
    answer = run(
        *(
            "train",
            "--data",
            "folder:pets",
            "--model",
            "tiny_networks:student",
            "--image_size",
            32,
            "--workers",
            0,
        ),
        *("--batch_size", 4, "--epochs", 1, "--validation", 0.2, "--out", "run"),
    )
    assert_refused(answer, "3.png")


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("owned",)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda file: file.write_text("hello"), ["weights.pt"]),
        (lambda file: torch.save({"state_dict": {"layer.weight": torch.zeros(3)}}, file), ["layer.weight"]),
        (lambda file: torch.save(models.build("resnet8", 100).state_dict(), file), ["100", "10"]),
        (lambda file: torch.save({"model": Malicious()}, file), ["weights.pt"]),
        (lambda file: file.write_bytes(pickle.dumps(Malicious())), ["weights.pt"]),
    ],
)
def test_checkpoints_that_are_none(run, tmp_path, write, words):
    write(tmp_path / "weights.pt")
    answer = run("distill", "--teacher", "resnet8", "--teacher_weights", "weights.pt", "--out", "run")
    assert_refused(answer, *words)
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.pt"]


def test_a_folder_that_belongs_to_another_run(run, tmp_path):
    command = ["distill", *TINY, "--batch_size", "512", "--out", "kept"]
    assert run(*command, "--epochs", "1")[0] == 0
    before = {entry: entry.read_bytes() for entry in (tmp_path / "kept").iterdir() if entry.is_file()}
    assert_refused(run(*command, "--epochs", "2"), "epochs: there 1, now 2", "--out")
    assert before == {entry: entry.read_bytes() for entry in (tmp_path / "kept").iterdir() if entry.is_file()}


def test_no_permission_to_write(run, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)  # a mode would not stop the superuser that CI may be
    assert_refused(run("distill", *TINY, "--out", "locked"), "locked", "Permission denied")


def test_no_space(run, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cmkd.training.run_folder.os.fsync", full)
    assert_refused(run("distill", *TINY, "--out", "full"), "full", "No space left on device")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "word"),
    [
        (["train", "--model", "tiny_networks:student"], "lower --lr"),
        (["distill", *TINY, "--loss", "KD"], "lower the learning rate"),
    ],
)
def test_a_loss_that_diverges_stops_the_run(run, tmp_path, command, word):
    status, _, err = run(*command, "--lr", "1e30", "--epochs", "1", "--out", "wild")
    assert status == 2
    assert word in err.strip().splitlines()[-1]
    assert "Traceback" not in err
    assert not (tmp_path / "wild/result.json").exists()


def test_evaluate_notices_another_teacher(run, tmp_path):
    options = ["--epochs", 1, "--batch_size", 512]
    assert run("train", "--model", "tiny_networks:student", *options, "--out", "big")[0] == 0
    command = ["distill", "--teacher", "big", "--student", "tiny_networks:student", "--loss", "KD"]
    assert run(*command, *options, "--out", "small")[0] == 0
    state = models.read_state_dict(tmp_path / "big/student.safetensors")
    models.save_weights(
        {key: value + 1 for key, value in state.items()}, tmp_path / "big/student.safetensors"
    )
    assert_refused(run("evaluate", "small"), "big", "another one")


def test_an_evaluation_set_that_is_empty(run, tmp_path):
    folder_of_images(tmp_path / "pets", count=2)
    answer = run("train", "--data", "folder:pets", "--batch_size", 1, "--out", "run", "--workers", 0)
    assert_refused(answer, "--validation 0.1", "--validation 0")
    assert not (tmp_path / "run").exists()

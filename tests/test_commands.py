"""The commands of the pages run as they stand there, on few images and for one epoch.

The lines that begin with `cmkd`, but for those that are listed below with the reason. Those of the tutorial
and of the page on methods of one's own run to the letter (test_tutorial.py, test_documents.py).
"""

from pathlib import Path

import pytest
import torch

from tests.test_pages import PAGES as ALL_PAGES
from tests.test_pages import commands

#: In this order: the first makes the runs that the others read.
PAGES = (
    "README.md",
    "docs/training.md",
    "docs/features.md",
    "docs/networks.md",
    "docs/data.md",
    "docs/report.md",
    "docs/evaluate.md",
    "docs/export.md",
    "docs/hub.md",
)
#: Page -> where its commands run instead.
OTHER_PAGES = {
    "docs/tutorial.md": "tests/test_tutorial.py",
    "docs/extending.md": "tests/test_documents.py",
    "docs/bench.md": ".ci/run; the others need a cluster, tests/bench/test_ray.py",
    "docs/results.md": "grids of hours; tests/test_results.py holds their tables to their logs",
    "results/README.md": "likewise",
}
#: Begin of a command -> where it is run instead, or why nowhere.
ELSEWHERE = {
    "bench benchmarks/specs/smoke.yaml": ".ci/run",
    "report runs/smoke": ".ci/run",
    "report runs/cifar100-table": "a grid of weeks; of smaller ones in tests/bench",
    "distill --teacher demo --student my_networks:small": "tests/test_documents.py",
    "predict hf:user/name": "tests/hub",
    "push RUN user/name": "tests/hub",
    "train --data folder:photos --model timm:resnet50 --weights pretrained": "weights from a hub",
    "distill --data folder:photos --teacher runs/teacher --student timm:mobilenetv3_small_100": "likewise",
}
#: What stands for a name of the reader's.
NAMES = {"RUN": "runs/cmkd", "cmkd-demo/cmkd-seed0": "runs/cmkd"}
TRAINING = ("train", "distill")


def test_no_page_is_left_out():
    assert {page for page in ALL_PAGES if list(commands(page))} == {*PAGES, *OTHER_PAGES}


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A folder with the files that the pages name, and data sets of a few random images."""
    from PIL import Image

    from cmkd import data, models

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def few(name, *_, **__):
        classes = 100 if "cifar100" in name or "imagenet" in name else 10
        generator = torch.Generator().manual_seed(0)

        def part(per_class):
            targets = torch.arange(classes).repeat(per_class)
            pixels = torch.randint(256, (len(targets), 3, 16, 16), generator=generator, dtype=torch.uint8)
            return data.TensorImages(pixels, targets)

        names = tuple(f"class {index}" for index in range(classes))
        return data.ImageData(
            name, names, part(max(2, 60 // classes)), part(1), (0.5,) * 3, (0.25,) * 3, 16, "crop_flip"
        )

    monkeypatch.setattr(data, "load", few)
    for file, network, classes in (
        ("resnet50-photos.pth", "timm:resnet50", 10),
        ("ckpt_epoch_240.pth", "resnet32x4", 100),
        ("vit-cifar10.pth", "timm:vit_small_patch16_224", 10),
    ):
        torch.save(models.build(network, classes).state_dict(), tmp_path / file)
    for file in ("0.png", "1.png", "photo.jpg", "another.png"):
        Image.new("RGB", (40, 30), "green").save(tmp_path / file)
    (tmp_path / "broken.jpg").write_text("no image")
    return tmp_path


@pytest.mark.usefixtures("world")
def test_the_commands_of_the_pages(capsys):
    pytest.importorskip("onnxruntime")
    from cmkd.cli import main

    def run(arguments, status=0):
        """Train for an epoch, whatever the command says."""
        short = ["--epochs", "1", "--batch_size", "32"] if arguments[0] in TRAINING else []
        assert main([*arguments, *short]) == status, f"{arguments}: {capsys.readouterr().err}"

    for network in ("resnet32x4", "wrn_16_1"):  # teachers that a reader would have
        run(["train", "--data", "cifar100", "--model", network, "--out", f"runs/{network}"])
    Path("runs/wrn_16_1").rename("runs/cifar100-wrn")

    done, elsewhere = [], set()
    for page in PAGES:
        for arguments in commands(page):
            said = " ".join(arguments)
            if begins := {begin for begin in ELSEWHERE if said.startswith(begin)}:
                elsewhere |= begins
                continue
            broken = "broken.jpg" in arguments
            run([NAMES.get(each, each) for each in arguments], status=2 if broken else 0)
            done.append(said)
            assert "Traceback" not in capsys.readouterr().err
    assert len(done) > 25
    assert elsewhere == set(ELSEWHERE)
    assert Path("runs/cmkd/export/student.onnx").is_file()
    assert Path("report.html").is_file()

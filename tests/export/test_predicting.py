"""Pictures get the probabilities that the run's loader would have given them."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from cmkd import data
from cmkd.cli import main
from cmkd.data import Loader
from cmkd.export import ExportConfig, export, predict
from cmkd.teachers.opening import load_run_network


@pytest.fixture
def pictures(tmp_path):
    """Three test images as files."""
    images = data.load("fashion-mnist-12k").test.images
    files = [tmp_path / f"{index}.png" for index in range(3)]
    for file, image in zip(files, images, strict=False):
        Image.fromarray(image[0].numpy()).save(file)
    return files


def probabilities(predictions, classes):
    return torch.tensor([[dict(each.classes)[name] for name in classes] for each in predictions])


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_picture_gets_what_the_loader_gives_it(run, pictures):
    network, card = load_run_network(run)
    loader = Loader(
        data.load("fashion-mnist-12k").test, mean=card["mean"], std=card["std"], batch_size=3, image_size=28
    )
    with torch.no_grad():
        expected = network(next(loader.epoch(0)).images).softmax(1)
    models = [run]
    for form, fold in (("safetensors", False), ("torchscript", True), ("exported-program", False)):
        options = {"format": form, "fold_preprocessing": fold, "part": "none"}
        file = export(ExportConfig(run=str(run), **options)).file
        models.append(shutil.copy(file, run.parent / file.name))  # without what lies beside it
    for model in models:
        found = list(predict(model, pictures, top=10))
        torch.testing.assert_close(probabilities(found, card["classes"]), expected, rtol=1e-5, atol=1e-6)
        shares = [share for _, share in found[0].classes]
        assert shares == sorted(shares, reverse=True)


def test_pictures_on_disk_are_framed_as_in_training(run, tmp_path):
    """A run on a folder: the shorter side is scaled and the middle cut out."""
    card = json.loads((run / "model.json").read_text())
    card |= {"data": f"folder:{tmp_path}", "channels": 3, "framing": "centre", "mean": [0.4, 0.5, 0.6]}
    (run / "model.json").write_text(json.dumps(card))
    pixels = np.random.default_rng(0).integers(0, 256, (90, 60, 3), dtype=np.uint8)
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "set" / part / name).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / "set" / part / name / "1.jpg")
    images = data.load(f"folder:{tmp_path / 'set'}", image_size=28).test
    loader = Loader(images, mean=card["mean"], std=card["std"], batch_size=1, image_size=28, workers=0)
    network, _ = load_run_network(run)
    with torch.no_grad():
        expected = network(next(loader.epoch(0)).images).softmax(1)
    found = list(predict(run, [tmp_path / "set/test/a/1.jpg"], top=10))
    torch.testing.assert_close(probabilities(found, card["classes"]), expected, rtol=1e-5, atol=1e-6)


def test_the_command_line_names_what_it_cannot_read_and_goes_on(run, pictures, tmp_path, capsys):
    broken, missing = tmp_path / "broken.jpg", tmp_path / "missing.png"
    broken.write_bytes(pictures[0].read_bytes()[:200])
    names = [str(file) for file in (pictures[0], broken, missing, pictures[1])]
    assert main(["predict", str(run), *names, "--top", "2"]) == 2
    out, err = capsys.readouterr()
    assert [line.partition(": ")[0] for line in out.splitlines()] == [names[0], names[3]]
    assert all(line.count("%") == 2 for line in out.splitlines())
    assert [str(file) in err for file in (broken, missing)] == [True, True]
    assert "Traceback" not in err

    assert main(["predict", str(run), *names, "--json", "--top", "99"]) == 2
    listed = json.loads(capsys.readouterr().out)
    assert [each["image"] for each in listed] == names
    assert ["error" in each for each in listed] == [False, True, True, False]
    assert sum(each["probability"] for each in listed[0]["classes"]) == pytest.approx(1)

    assert main(["predict", str(run), names[0]]) == 0
    assert main(["predict", str(run), names[0], "--top", "0"]) == 2
    assert main(["predict", str(tmp_path / "nothing.onnx"), names[0]]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_the_command_line_exports(run, capsys):
    assert main(["export", str(run), "--format", "torchscript", "--fold-preprocessing"]) == 0
    out = capsys.readouterr().out
    assert "image (N, 3, 28, 28): uint8" in out
    assert "compared with PyTorch on 64 test images of fashion-mnist-12k" in out
    assert (run / "export/student.pt").is_file()
    assert main(["export", str(run), "--format", "coreml"]) == 2
    assert "--format" in capsys.readouterr().err

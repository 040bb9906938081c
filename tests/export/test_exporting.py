"""What is exported gives the answers of the run's network, in any other program that reads the form."""

import io
import json
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from cmkd import data, models
from cmkd.data import Loader
from cmkd.errors import InputError
from cmkd.export import ExportConfig, export, exporting, open_model
from cmkd.export.formats import SUFFIXES

EXTRA = "cmkd_export.json"


def export_run(run, **options):
    return export(ExportConfig(run=str(run), **options))


def network_of(run):
    """The network of a run and some of its test images, normalised and as pixels."""
    card = json.loads((run / "model.json").read_text())
    network = models.build(card["network"], card["num_classes"])
    models.load_weights(network, run / "student.safetensors")
    images = data.load("fashion-mnist-12k").test
    loader = Loader(images, mean=card["mean"], std=card["std"], batch_size=5)
    return network.eval(), next(loader.epoch(0)).images, images.images[:5].expand(-1, 3, -1, -1)


def in_another_program(file):
    """Return a file's network by the library of its form alone, and the card that it carries."""
    if file.suffix == ".onnx":
        runtime = pytest.importorskip("onnxruntime")
        session = runtime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
        (entry,), (out,) = session.get_inputs(), session.get_outputs()
        assert (entry.name, out.name) == ("image", "logits")
        assert entry.shape[1:] == [3, 28, 28]
        card = session.get_modelmeta().custom_metadata_map["cmkd_export"]
        return lambda x: torch.from_numpy(session.run(None, {"image": x.numpy()})[0]), card
    extra = {EXTRA: ""}
    if file.suffix == ".pt":
        return torch.jit.load(file, _extra_files=extra), extra[EXTRA]
    if file.suffix == ".pt2":
        return torch.export.load(file, extra_files=extra).module(), extra[EXTRA]
    from safetensors import safe_open

    from tests.tiny_networks import staged

    network = staged(10)
    with safe_open(file, "pt") as opened:
        network.load_state_dict({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
        return network.eval(), opened.metadata()["cmkd_export"]


@pytest.mark.parametrize("form", [*SUFFIXES])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_the_file_gives_the_answers_of_the_run(run, form):
    if form == "onnx":
        pytest.importorskip("onnxscript")
    found = export_run(run, format=form)
    assert found.file == run / f"export/student{SUFFIXES[form]}"
    network, images, _ = network_of(run)
    exported, text = in_another_program(found.file)
    with torch.no_grad():
        for batch in (images, images[:1]):
            torch.testing.assert_close(exported(batch), network(batch), rtol=1e-4, atol=1e-5)
    card = json.loads(text)
    assert (card["classes"][9], card["image_size"], card["channels"]) == ("Ankle boot", 28, 1)

    assert found.parity.images == 64
    assert found.checked_on == "test images of fashion-mnist-12k"
    assert found.parity.difference < 1e-5
    beside = json.loads((run / f"export/student{SUFFIXES[form]}.json").read_text())
    assert beside["input"]["dtype"] == "float32"
    assert beside["bytes"] == found.file.stat().st_size
    assert beside["compared_with_pytorch"]["images"] == "64 test images of fashion-mnist-12k"

    torch.testing.assert_close(
        open_model(found.file)(torch.full((1, 3, 28, 28), 7.0)),
        network(torch.full((1, 3, 28, 28), (7 / 255 - 0.286) / 0.353)),
        rtol=1e-4,
        atol=1e-5,
    )


def trained_on_photos(run, folder):
    """Let a run say that it was trained on class folders, of one photograph each."""
    classes = list("abcdefghij")
    for part in ("train", "test"):
        for number, name in enumerate(classes):
            (folder / part / name).mkdir(parents=True)
            Image.new("RGB", (30, 30), (number, 20, 30)).save(folder / part / name / "1.png")
    card, config = json.loads((run / "model.json").read_text()), (run / "config.yaml").read_text()
    card |= {"data": f"folder:{folder}", "classes": classes, "channels": 3, "framing": "centre"}
    (run / "model.json").write_text(json.dumps(card))
    config = {**yaml.safe_load(config), "data": f"folder:{folder}", "validation": 0.0, "workers": 0}
    (run / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize("form", [*SUFFIXES])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_no_path_of_this_machine_is_in_a_file(run, form, tmp_path):
    if form == "onnx":
        pytest.importorskip("onnxscript")
    photos = tmp_path / "photos/birds"
    trained_on_photos(run, photos)
    found = export_run(run, format=form)
    assert found.checked_on == "test images of folder:…/photos/birds"
    photos.rename(tmp_path / "elsewhere")
    without = export_run(run, format=form, out=str(tmp_path / f"y{SUFFIXES[form]}"))
    assert str(photos) in without.checked_on  # which is for who exports it
    for file in (found.file, found.description, without.file, without.description):
        members = [file.read_bytes()]
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                members += map(archive.read, archive.namelist())
        for place in (tmp_path, Path(__file__).parents[2], sys.prefix):
            assert not any(str(place).encode() in content for content in members), (file.name, place)
    assert json.loads(found.description.read_text())["trained_on"] == "folder:…/photos/birds"


@pytest.mark.parametrize("form", ["torchscript", "exported-program"])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_network_that_normalises_by_itself(run, form):
    found = export_run(run, format=form, fold_preprocessing=True)
    network, images, pixels = network_of(run)
    exported, _ = in_another_program(found.file)
    with torch.no_grad():
        torch.testing.assert_close(exported(pixels), network(images), rtol=1e-4, atol=1e-5)
        assert exported(pixels[:1]).shape == (1, 10)


def test_eight_bits_keep_the_known_accuracy(teacher):
    """The demo's teacher has 92.45 % on the embedded test images (README); its file takes pixels here."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    found = export_run(teacher, quantize="int8", fold_preprocessing=True)
    assert found.quantized["calibration"] == "static: ranges measured on 128 training images"
    assert found.quantized["images"] == 2000
    assert found.quantized["accuracy_before"] == pytest.approx(0.9245, abs=0.001)
    assert found.quantized["accuracy"] > 0.9245 - 0.01
    model = onnx.load(found.file)
    onnx.checker.check_model(model, full_check=True)
    assert any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    assert found.bytes < 0.6 * (teacher / "student.safetensors").stat().st_size
    assert str(sys.prefix).encode() not in found.file.read_bytes()  # nor any other path of this machine

    session, _ = in_another_program(found.file)
    images = data.load("fashion-mnist-12k").test
    answers = session(images.images.expand(-1, 3, -1, -1))
    accuracy = (answers.argmax(1) == images.targets).float().mean().item()
    assert accuracy == pytest.approx(found.quantized["accuracy"], abs=0.002)


def test_weights_alone_fit_the_published_network(teacher, tmp_path):
    """The names are those of the papers' code, without anything of ours around them."""
    from safetensors.torch import load_file

    found = export_run(teacher, format="safetensors", out=str(tmp_path / "w.safetensors"), part="none")
    network = models.build("resnet20", 10)
    network.load_state_dict(load_file(found.file))
    before = load_file(teacher / "student.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_the_student_of_simkd_is_exported_whole(tmp_path):
    card = {"network": "simkd:16x7:resnet8", "num_classes": 4, "classes": list("abcd"), "data": "x"}
    card |= {"mean": [0.5, 0.4, 0.3], "std": [0.2] * 3, "image_size": 28}
    network = models.build(card["network"], 4).eval()
    models.save_weights(network, tmp_path / "student.safetensors")
    (tmp_path / "model.json").write_text(json.dumps(card))
    (tmp_path / "result.json").write_text("{}")
    found = export_run(tmp_path, format="torchscript", out=str(tmp_path / "s.pt"))
    assert found.checked_on.startswith("random images (the run's are not to be had: ")
    levels = torch.rand(2, 3, 28, 28) * 255
    mean, std = (torch.tensor(card[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    expected = network((levels / 255 - mean) / std)
    torch.testing.assert_close(open_model(found.file)(levels), expected.detach(), rtol=1e-4, atol=1e-5)


def test_a_run_that_keeps_off_the_test_set_is_tried_on_its_validation_part(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "test": "never"}))
    found = export_run(run, format="safetensors")
    assert found.checked_on == "validation images of fashion-mnist-12k"
    assert export_run(run, format="safetensors", part="none").checked_on == "random images"  # over its own


class Branching(nn.Module):
    """Answers by the value of a number: nothing that writes the calculation down can follow that."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 10)

    def forward(self, x):
        means = x.mean((2, 3))
        return self.fc(means) if means.sum() > -1e6 * x.shape[0] else self.fc(-means)


def test_what_cannot_be_used_is_said(run, tmp_path, monkeypatch):
    def refused(match, **options):
        with pytest.raises(InputError, match=match):
            export_run(options.pop("at", run), **options)

    refused("no finished run", at=tmp_path)
    refused("--format coreml is unknown; give one of onnx, torchscript", format="coreml")
    refused("--quantize is for --format onnx", format="torchscript", quantize="int8")
    refused("safetensors hold weights alone", format="safetensors", fold_preprocessing=True)
    refused("ends in .pt$|ends in .pt[.]", format="torchscript", out=str(tmp_path / "x.onnx"))
    refused("was not written by `cmkd export`", format="safetensors", out=str(run / "student.safetensors"))
    monkeypatch.setitem(sys.modules, "onnx", None)
    refused(r'^onnx is not installed; run: pip install "cmkd\[export\]"$')
    assert not (run / "export").exists()


class Reading(Branching):
    """Calculates with a number that it has read out of a tensor."""

    def forward(self, x):
        return self.fc(x.mean((2, 3))) + min(x.shape[1], 0) * float(x.sum())


class Looking(Branching):
    """Looks at the shape alone, as many networks do before they begin."""

    def forward(self, x):
        if x.shape[1] != 3:
            raise ValueError("no picture")
        return self.fc(x.mean((2, 3)))


def run_of(network, run, monkeypatch):
    import tiny_networks

    monkeypatch.setattr(tiny_networks, "given", lambda num_classes: network, raising=False)
    models.save_weights(network, run / "student.safetensors")
    card = json.loads((run / "model.json").read_text())
    (run / "model.json").write_text(json.dumps({**card, "network": "tiny_networks:given"}))


@pytest.mark.parametrize("form", ["onnx", "torchscript", "exported-program"])
def test_a_network_that_no_exporter_can_follow_leaves_nothing_behind(run, monkeypatch, form):
    """Not even a trace, which has the one branch of its example and would be right on all test images."""
    if form == "onnx":
        pytest.importorskip("onnxruntime")
    run_of(Branching(), run, monkeypatch)
    with pytest.raises(InputError, match=rf"given cannot be exported as {form}.+take --format safetensors"):
        export_run(run, format=form)
    assert not (run / "export").exists()


def test_a_trace_with_a_number_of_its_example_is_refused_and_one_with_shapes_is_not(run, monkeypatch):
    run_of(Reading(), run, monkeypatch)
    with pytest.raises(InputError, match="given cannot be exported as torchscript"):
        export_run(run, format="torchscript")
    run_of(Looking(), run, monkeypatch)
    assert export_run(run, format="torchscript").parity.agreement == 1


def test_other_answers_than_pytorchs_are_not_written(run, monkeypatch):
    as_bytes = exporting.as_bytes

    def damaged(network, card, form):
        with torch.no_grad():
            network.fc.bias[3] += 1
        try:
            return as_bytes(network, card, form)
        finally:
            with torch.no_grad():
                network.fc.bias[3] -= 1

    monkeypatch.setattr(exporting, "as_bytes", damaged)
    with pytest.raises(InputError, match="other answers than PyTorch: the logits differ by"):
        export_run(run, format="torchscript")
    assert not (run / "export").exists()


def test_a_batch_that_was_taken_for_a_constant_is_found(run, monkeypatch):
    class Fixed(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network(x).view(int(x.shape[0]) * 10).view(2, 10)

    as_bytes = exporting.as_bytes
    monkeypatch.setattr(exporting, "as_bytes", lambda network, *rest: as_bytes(Fixed(network), *rest))
    with pytest.raises(InputError, match="fails on batches of 1, 5 and more images"):
        export_run(run, format="torchscript")


def test_fewer_answers_than_images_are_found(run, monkeypatch):
    class Shortened(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network(x)[:2]

    as_bytes = exporting.as_bytes
    monkeypatch.setattr(exporting, "as_bytes", lambda network, *rest: as_bytes(Shortened(network), *rest))
    with pytest.raises(InputError, match=r"its logits are \(5, 10\), those of PyTorch \(64, 10\)"):
        export_run(run, format="torchscript")


@pytest.mark.parametrize("form", ["torchscript", "safetensors", "exported-program"])
def test_a_file_of_somebody_else_is_refused(form, tmp_path):
    file = tmp_path / f"other{SUFFIXES[form]}"
    if form == "safetensors":
        header = b"{}"
        file.write_bytes(struct.pack("<Q", len(header)) + header)
    else:
        torch.save({"weight": torch.zeros(2)}, file)
    with pytest.raises(InputError, match="was not written by `cmkd export`"):
        open_model(file)


def test_an_exported_program_with_something_to_unpickle_is_refused(run, tmp_path):
    """PyTorch would unpickle such a part, that is run what it says."""
    found = export_run(run, format="exported-program", part="none")
    buffer = io.BytesIO(found.file.read_bytes())
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("archive/data/constants/opaque_obj_0", b"\x80\x04N.")
    (tmp_path / "changed.pt2").write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match="contains code"):
        open_model(tmp_path / "changed.pt2")
    assert np.isfinite(open_model(found.file)(torch.zeros(1, 3, 28, 28)).numpy()).all()

import sys

import pytest
import timm
import torch
import torchvision
from torch import nn

from cmkd import models
from cmkd.errors import InputError
from cmkd.models import available, build, input_statistics

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def write_module(folder, text, name):
    (folder / f"{name}.py").write_text(text)
    return name


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnt20", "'resnet20'"),
        ("timm:resnet118", "'resnet18'"),
        ("torchvision:resnet19", "'resnet18'"),
    ],
)
def test_unknown_name_names_the_nearest(name, nearest):
    with pytest.raises(InputError, match=nearest):
        build(name, 10)


def test_a_family_is_one_new_file(tmp_path, monkeypatch):
    write_module(
        tmp_path,
        "from torch import nn\nMODELS = {'one_layer': lambda n: nn.Linear(3, n)}\n",
        "one_file_family",
    )
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    try:
        assert "one_layer" in available()
        assert build("one_layer", 4).out_features == 4
    finally:
        sys.modules.pop("cmkd.models.one_file_family", None)


@pytest.mark.parametrize("name", ["timm:test_resnet.r160_in1k", "torchvision:shufflenet_v2_x0_5"])
def test_networks_of_others(name):
    network = build(name, 7).eval()
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    assert input_statistics(network) is None  # not known of random weights


def test_googlenet_returns_logits_in_training():
    network = build("torchvision:googlenet", 3)
    assert network.training
    assert network(torch.randn(2, 3, 64, 64)).shape == (2, 3)


def test_factory_by_path_from_the_current_directory(here):
    write_module(
        here,
        "from torch import nn\ndef tiny(num_classes):\n    return nn.Linear(3, num_classes)\n",
        "own_networks",
    )
    before = list(sys.path)
    assert build("own_networks:tiny", 6).out_features == 6
    assert sys.path == before


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def tiny(num_classes):\n    return 3\n", "returned a int"),
        ("def tiny():\n    return 3\n", "failed: TypeError"),
        ("def tiny(num_classes):\n    raise OSError('disk on fire')\n", "disk on fire"),
        ("def tyni(num_classes):\n    return 3\n", "'tyni'"),
        ("raise KeyError('gone')\n", "KeyError: 'gone'"),
        ("def tiny(:\n", "SyntaxError"),
    ],
)
def test_factory_that_fails(here, body, message):
    write_module(here, body, "failing_networks")
    with pytest.raises(InputError, match=message):
        build("failing_networks:tiny", 3)


def test_module_that_does_not_exist():
    with pytest.raises(InputError, match=r"no_such_module.*package\.module:factory"):
        build("no_such_module:tiny", 3)


def test_one_class_is_refused():
    with pytest.raises(InputError, match="num_classes is 1"):
        build("resnet8", 1)


@pytest.mark.parametrize("name", ["resnet8", "math:sqrt"])
def test_pretrained_only_where_somebody_published_weights(name):
    with pytest.raises(InputError, match="checkpoint"):
        build(name, 10, pretrained=True)


def test_timm_without_weights_of_that_name():
    known, trained = timm.list_models("resnet*"), set(timm.list_models("resnet*", pretrained=True))
    name = next(name for name in known if not any(full.split(".")[0] == name for full in trained))
    with pytest.raises(InputError, match=f"no weights for '{name}'"):
        build(f"timm:{name}", 10, pretrained=True)


def test_pretrained_without_a_network_says_what_to_do(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr(timm, "create_model", unreachable)
    monkeypatch.setattr(torchvision.models, "get_model", unreachable)
    for name in ("timm:resnet18", "torchvision:resnet18"):
        with pytest.raises(
            InputError, match=r"service not known.*pass the file as this network's checkpoint"
        ):
            build(name, 10, pretrained=True)


@pytest.mark.parametrize(
    ("name", "head"),
    [("squeezenet1_1", "classifier.1"), ("shufflenet_v2_x0_5", "fc"), ("mnasnet0_5", "classifier.1")],
)
def test_pretrained_body_with_a_new_head(name, head, monkeypatch, caplog):
    published = torchvision.models.get_model(name, weights=None)
    downloaded = published.state_dict()
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda *args, **kwargs: downloaded
    )

    network = build(f"torchvision:{name}", 5, pretrained=True).eval()

    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    kept = [key for key in downloaded if not key.startswith(head)]
    assert all(torch.equal(network.state_dict()[key], downloaded[key]) for key in kept)
    assert input_statistics(network) == IMAGENET
    assert "is new" in caplog.text


@pytest.mark.parametrize(("name", "side"), [("googlenet", 64), ("inception_v3", 80)])
def test_pretrained_networks_with_auxiliary_heads(name, side, monkeypatch):
    """They answer as torchvision's, which brings the images from ImageNet's normalisation to its own."""
    options = {"aux_logits": True, "transform_input": True, "init_weights": False}
    published = torchvision.models.get_model(name, weights=None, **options)
    downloaded = published.state_dict()
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda *args, **kwargs: downloaded
    )
    network = build(f"torchvision:{name}", 1000, pretrained=True)
    pixels = torch.rand(2, 3, side, side)

    def normalised(mean, std):
        return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    images = normalised(*input_statistics(network))
    again = build(f"torchvision:{name}", 1000)
    again.load_state_dict(network.state_dict())
    with torch.no_grad():
        expected = published.eval()(normalised(*IMAGENET))
        torch.testing.assert_close(network.eval()(images), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(again.eval()(images), network(images))
        assert network.train()(images).shape == (2, 1000)
    assert build(f"torchvision:{name}", 5, pretrained=True).eval()(images).shape == (2, 5)


def test_pretrained_with_its_own_classes_keeps_its_head(monkeypatch, caplog):
    downloaded = torchvision.models.get_model("squeezenet1_1", weights=None).state_dict()
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda *args, **kwargs: downloaded
    )
    network = build("torchvision:squeezenet1_1", 1000, pretrained=True)
    assert all(torch.equal(value, downloaded[key]) for key, value in network.state_dict().items())
    assert caplog.text == ""


def test_pretrained_timm_network_knows_its_statistics(monkeypatch):
    create_model = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **kwargs: create_model(name, **kwargs))
    network = build("timm:test_resnet", 10, pretrained=True)
    assert input_statistics(network) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_own_network_may_say_its_statistics():
    network = nn.Linear(1, 2)
    assert input_statistics(network) is None
    network.input_statistics = ([0, 0, 0], [1, 1, 1])
    assert input_statistics(network) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

"""A student that ends in a projector and in its teacher's classifier."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from cmkd.errors import InputError
from cmkd.models import build, count_parameters, feature_layers, reuse_classifier
from cmkd.models.capture import Capture
from cmkd.teachers.folding import fold_batch_norm


def networks(student, teacher="resnet8x4", classes=7):
    torch.manual_seed(0)
    return build(student, classes), build(teacher, classes).eval()


@pytest.mark.parametrize(
    ("student", "size", "place", "side"),
    [
        ("resnet8", 32, "avgpool", 8),
        ("wrn_16_1", 32, "avgpool", 8),
        ("vgg8", 32, "pool4", 4),
        ("MobileNetV2", 32, "avgpool", 2),
        ("ShuffleV2", 32, "avgpool", 4),
        ("timm:test_resnet", 64, "global_pool", 2),
        ("torchvision:resnet18", 64, "avgpool", 2),
        # They pool by a bare function, or have more layers behind the pooling.
        ("torchvision:shufflenet_v2_x0_5", 64, "fc.projection", 1),
        ("torchvision:mobilenet_v3_small", 64, "classifier.3.projection", 1),
    ],
)
def test_the_student_answers_by_the_classifier_of_the_teacher(student, size, place, side):
    student, teacher = networks(student)
    assert reuse_classifier(student, teacher) == "simkd:256x8"
    layers = feature_layers(student)
    assert (layers.pooled, layers.projector) == (place, f"{place}.projector")
    seen = Capture(student.eval(), [layers.projector])(torch.randn(2, 3, size, size))
    maps = seen.features[layers.projector].detach().numpy()
    assert maps.shape == (2, 256, side, side)
    expected = maps.mean((2, 3)) @ teacher.fc.weight.detach().numpy().T + teacher.fc.bias.detach().numpy()
    np.testing.assert_allclose(seen.logits.detach(), expected, rtol=1e-4, atol=1e-5)
    frozen = [name for name, parameter in student.named_parameters() if not parameter.requires_grad]
    assert frozen == [f"{layers.classifier}.weight", f"{layers.classifier}.bias"]
    assert all(not parameter.requires_grad or parameter.grad is None for parameter in teacher.parameters())


def test_what_is_added_has_the_published_size():
    """Three convolutions and three batch norms from 256 to 256 channels, half of these between."""
    student, teacher = networks("resnet8x4", "resnet32x4", classes=100)
    before = count_parameters(student)
    reuse_classifier(student, teacher)
    projector = 256 * 128 + 128 * 128 * 9 + 128 * 256 + 2 * (128 + 128 + 256)
    assert count_parameters(student) - before == projector == 214_016  # as docs/features.md has it


@pytest.mark.parametrize("name", ["resnet8", "torchvision:shufflenet_v2_x0_5"])
def test_it_is_built_again_by_name(name):
    student, teacher = networks(name)
    end = reuse_classifier(student, teacher)
    again = build(f"{end}:{name}", 7).eval()
    again.load_state_dict(student.state_dict())
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(again(images), student.eval()(images))
    assert feature_layers(again) == feature_layers(student)
    assert torch.equal(copy.deepcopy(student)(images), student(images))


class Fixed(nn.Module):
    """Takes images of 48 x 48 alone."""

    def __init__(self, num_classes):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU())
        self.pool = nn.AvgPool2d(12)
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x):
        return self.fc(self.pool(self.second(self.first(x))).flatten(1))


class Stated(Fixed):
    """The same, and says what its layers are."""

    feature_layers, pooled_layer, classifier_layer = ("first", "second"), "pool", "fc"


@pytest.mark.parametrize("kind", [Fixed, Stated])
@pytest.mark.parametrize("sizes", [{"image_size": 48}, {"image_size": 32, "student_image_size": 48}])
def test_a_student_that_takes_one_size_of_images(kind, sizes):
    student, teacher = kind(7), networks("resnet8")[1]
    end = reuse_classifier(student, teacher, **sizes)
    assert end == f"simkd:256x{sizes['image_size'] // 4}@48"
    assert feature_layers(student).projector == "pool.projector"
    again = build(f"{end}:{__name__}:{kind.__name__}", 7).eval()
    again.load_state_dict(student.state_dict())
    images = torch.randn(2, 3, 48, 48)
    assert torch.equal(again(images), student.eval()(images))
    with pytest.raises(InputError, match="failed on an image of 32 x 32"):
        reuse_classifier(Fixed(7), teacher)


def test_its_batch_norm_folds_where_it_is_a_teacher():
    student, teacher = networks("resnet8")
    reuse_classifier(student, teacher)
    folded = fold_batch_norm(student.eval(), torch.randn(2, 3, 32, 32))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


def test_a_larger_map_is_pooled_to_the_size_of_the_teachers():
    student, teacher = networks("resnet8", "ResNet18")
    assert reuse_classifier(student, teacher) == "simkd:512x4"
    for size, side in ((32, 4), (12, 3)):
        maps = Capture(student, ["avgpool.projector"])(torch.randn(2, 3, size, size)).features
        assert maps["avgpool.projector"].shape == (2, 512, side, side)


def test_a_classifier_without_bias():
    student, teacher = networks("resnet8")
    teacher.fc = nn.Linear(256, 7, bias=False)
    reuse_classifier(student, teacher)
    assert torch.equal(student.fc.bias, torch.zeros(7))


class Largest(nn.Module):
    def forward(self, x):
        return x.amax((2, 3))


def test_what_cannot_be():
    student, teacher = networks("resnet8")
    unchanged = copy.deepcopy(student.state_dict())
    teacher.avgpool = Largest()
    with pytest.raises(InputError, match=r"does not read the average of its layer 'avgpool:input'"):
        reuse_classifier(student, teacher)
    with pytest.raises(InputError, match=r"its layer 'layer1' has 64 channels"):
        reuse_classifier(student, teacher, layer="layer1")
    assert student.state_dict().keys() == unchanged.keys()
    reuse_classifier(student, teacher, layer="avgpool")
    for name in ("simkd:256:resnet8", "simkd:resnet8"):
        with pytest.raises(InputError, match="simkd:WIDTHxSIDE:NAME"):
            build(name, 10)

from collections import defaultdict

import pytest

from cmkd import losses, models
from cmkd.bench import published

#: ImageNet's networks are torchvision's and timm's, not ours.
IMAGENET = {"ResNet18", "ResNet34", "ResNet50", "ResNet101", "ResNet152", "MobileNetV1"}
#: A method that the tables have and cmkd has not.
FOREIGN = {"MRKD"}


def of(data):
    return [figure for figure in published.figures() if figure.data == data]


def test_every_network_of_cifar_is_one_of_ours():
    for name in {name for figure in of("cifar100") for name in (figure.teacher, figure.student)}:
        spelled = published.network("cifar100", name)
        assert spelled in models.available(), name
        assert models.build(name, 100) is not None


def test_the_networks_of_imagenet_are_torchvisions_and_timms():
    import timm
    import torchvision

    assert {name for figure in of("imagenet") for name in (figure.teacher, figure.student)} == IMAGENET
    for name in IMAGENET - {"MobileNetV1"}:
        assert name.lower() in torchvision.models.list_models()
        assert published.network("imagenet", f"torchvision:{name.lower()}") == name.lower()
    assert timm.is_model(published.network("imagenet", "timm:mobilenetv1"))


def test_every_method_is_a_loss_of_ours_or_known_to_be_none():
    known = {*losses.available(), *losses.available_on_features()}
    for method in {figure.method for figure in published.figures()} - {"teacher"} - FOREIGN:
        assert method.removesuffix("+LS") in known, method


def test_no_figure_is_there_twice_and_all_are_plausible():
    seen = set()
    for figure in published.figures():
        key = (figure.data, figure.teacher, figure.student, figure.method, figure.note)
        assert key not in seen
        seen.add(key)
        assert 0.55 < figure.accuracy < 0.82, figure
        assert figure.source


def test_a_network_without_distillation_is_the_same_in_every_pair():
    accuracies = defaultdict(set)
    for figure in published.figures():
        if figure.method == "teacher":
            accuracies[figure.data, "teacher", figure.teacher].add(figure.accuracy)
        elif figure.method == "CE":
            accuracies[figure.data, "student", figure.student].add(figure.accuracy)
    assert all(len(values) == 1 for values in accuracies.values())


def test_all_twelve_pairs_of_cifar_have_teacher_student_and_kd():
    pairs = {(figure.teacher, figure.student) for figure in of("cifar100")}
    assert len(pairs) == 12
    for pair in pairs:
        assert {"teacher", "CE", "KD", "DIST", "CRD"} <= {
            figure.method for figure in of("cifar100") if (figure.teacher, figure.student) == pair
        }


@pytest.mark.parametrize(
    ("teacher", "student", "method", "expected"),
    [
        ("resnet56", "resnet20", "KD", 70.66),
        ("resnet32x4", "resnet8x4", "DKD", 76.32),
        ("wrn_40_2", "wrn_16_2", "kd+ls", 76.11),
        ("vgg13_bn", "mobilenet_v2", "CRD", 69.73),
        ("ResNet50", "vgg8", "DIST", 74.11),
        ("resnet32x4", "ShuffleV1", "ReviewKD", 77.45),
        ("resnet56", "resnet20", "teacher", 72.34),
        ("resnet110", "resnet20", "teacher", 74.31),  # a pair of which nothing else is published
        ("resnet14", "resnet20", "CE", 69.06),
    ],
)
def test_figures_are_found_by_our_names(teacher, student, method, expected):
    (figure,) = published.find("cifar100", teacher, student, method)
    assert 100 * figure.accuracy == pytest.approx(expected)


@pytest.mark.parametrize(
    ("data", "teacher", "student", "method"),
    [
        ("cifar10", "resnet56", "resnet20", "KD"),
        ("cifar100", "resnet56", "resnet8", "KD"),
        ("cifar100", "resnet20", "resnet56", "KD"),
        ("cifar100", "resnet56", "resnet20", "CMKD"),
        ("cifar100", "timm:resnet50", "vgg8", "KD"),
        ("cifar100", None, "resnet20", "KD"),
        ("folder:/data/flowers", "torchvision:resnet34", "torchvision:resnet18", "KD"),
        ("folder:/data/imagenet-100", "torchvision:resnet34", "torchvision:resnet18", "KD"),
        ("folder:/data/imagenet", "ResNet34", "ResNet18", "KD"),  # of those names ours, for small images
    ],
)
def test_what_is_not_published_is_not_found(data, teacher, student, method):
    assert published.find(data, teacher, student, method) == []


@pytest.mark.parametrize(
    "data", ["folder:/data/imagenet", "hf:ILSVRC/imagenet-1k", "wds:/d/ImageNet/train-*.tar"]
)
def test_imagenet_is_recognised_and_may_have_several_figures(data):
    found = published.find(data, "torchvision:resnet34", "timm:resnet18.a1_in1k", "KD")
    assert [f"{100 * figure.accuracy:.2f}" for figure in found] == ["70.66", "71.03", "71.21"]
    assert str(found[2]) == "71.21 (DIST_KD README; T=4)"

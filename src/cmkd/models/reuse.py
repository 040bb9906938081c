"""A student that ends in the classifier of its teacher: the network that SimKD trains."""

from __future__ import annotations

import re
from collections import OrderedDict

import torch
from torch import Tensor, nn

from cmkd.errors import InputError
from cmkd.losses.features.shaping import as_map, pool_to
from cmkd.models.calls import evaluating, noise, record_calls
from cmkd.models.capture import Capture
from cmkd.models.layers import FeatureLayers, feature_layers, usual_image_size

#: Largest difference of the teacher's logits from what its classifier makes of the averaged map, relative to
#: the largest logit.
_TOLERANCE = 1e-3


class Projection(nn.Module):
    """A student's last map in the width of its teacher's, averaged over positions.

    The projector is that of SimKD (Chen et al. 2022, arXiv 2203.14001, section 3.2) with its reduction
    factor of 2: convolutions 1 x 1, 3 x 3 and 1 x 1, each with batch norm and ReLU. Where there is one
    position alone, the middle one is 1 x 1, too.

    Args:
        width: Channels of the student.
        wanted: Channels of the teacher.
        side: Side of the teacher's map. Larger maps of the student are pooled to it first.

    Example:
        >>> projection = Projection(8, 64, 4)
        >>> projection(torch.zeros(2, 8, 7, 7)).shape, projection.projector(torch.zeros(2, 8, 4, 4)).shape
        (torch.Size([2, 64]), torch.Size([2, 64, 4, 4]))
    """

    def __init__(self, width: int, wanted: int, side: int) -> None:
        super().__init__()
        middle, kernel = max(wanted // 2, 1), 3 if side > 1 else 1
        self.fit = _AtMost(side)
        self.projector = nn.Sequential(
            *_convolution(width, middle, 1),
            *_convolution(middle, middle, kernel),
            *_convolution(middle, wanted, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C, H, W)`, `(N, C)` or tokens `(N, T, C)` to `(N, wanted)`."""
        return self.projector(self.fit(x)).mean((2, 3))


class _AtMost(nn.Module):
    """Maps of at most so many positions a side; a module, because tracers need not look into it."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """Bring features to maps, and pool larger ones."""
        x = as_map(x)
        return pool_to(x, (min(x.shape[2], self.side), min(x.shape[3], self.side)))


def reuse_classifier(
    student: nn.Module,
    teacher: nn.Module,
    *,
    layer: str | None = None,
    image_size: int | None = None,
    student_image_size: int | None = None,
) -> str:
    """Let a student end in a projector, to be trained, and in its teacher's classifier, which is frozen.

    The projector (`Projection`) takes the place of the module in which the student pools, and a copy of the
    teacher's classifier that of its own; where a student pools by a bare function, or flattens more than one
    position, the projector goes between its embedding and its classifier, and sees one position. All else
    keeps its name. `feature_layers(student)` knows the new layers, the `projector` among them.

    Args:
        student: Network to change, in place.
        teacher: Network whose classifier is used; left as it is.
        layer: The teacher's layer whose average over positions its classifier reads, as `Capture` takes it;
            by default what goes into its pooling.
        image_size: Side in pixels of the teacher's images; by default what `feature_layers` takes.
        student_image_size: That of the student's, for one that does not take what `feature_layers` takes; by
            default the teacher's.

    Returns:
        What the changed student is called: `build(f"{this}:{name}", classes)` makes it from the name of what
        it was before, for its weights to be loaded. It ends in the size of the images, as in `256x8@96`,
        where that was needed.

    Raises:
        InputError: The teacher's classifier is not linear or reads something else than that average, or no
            layers are found in one of the networks.

    Example:
        >>> from cmkd.models import build
        >>> student, teacher = build("resnet8", 10), build("resnet8x4", 10)
        >>> reuse_classifier(student, teacher)
        'simkd:256x8'
        >>> student.avgpool.projector[-3].out_channels, torch.equal(student.fc.weight, teacher.fc.weight)
        (256, True)
    """
    layers = feature_layers(teacher, image_size=image_size)
    layer = layer or layers.before_pooling
    classifier = teacher.get_submodule(layers.classifier)
    with evaluating(teacher), torch.no_grad():
        seen = Capture(teacher, [layer])(noise(teacher, image_size or usual_image_size(teacher)))
    features = as_map(seen.features[layer])
    if not (isinstance(classifier, nn.Linear) and classifier.in_features == features.shape[1]):
        raise InputError(
            f"the teacher's classifier is {classifier}, and its layer {layer!r} has {features.shape[1]} "
            "channels: SimKD needs the linear layer that reads the average of these. Name another layer of "
            "the teacher, or take another teacher."
        )
    with torch.no_grad():
        difference = (classifier(features.mean((2, 3))) - seen.logits).abs().max()
    if not difference <= _TOLERANCE * seen.logits.abs().max():
        raise InputError(
            f"the teacher's classifier does not read the average of its layer {layer!r}, so that SimKD has "
            "no use for it. Name the layer whose average it reads, or take another teacher."
        )
    width, side = features.shape[1], max(features.shape[2:])
    size = _needed_size(student, student_image_size or image_size)
    own = end_in_projection(student, width, side, image_size=size)
    own.weight.data.copy_(classifier.weight.detach())
    if classifier.bias is None:
        nn.init.zeros_(own.bias)
    else:
        own.bias.data.copy_(classifier.bias.detach())
    own.requires_grad_(False)
    return f"simkd:{width}x{side}" + ("" if size is None else f"@{size}")


def _needed_size(student: nn.Module, known: int | None) -> int | None:
    """Return the known side of a student's images if its layers are not found with the usual one."""
    try:
        feature_layers(student)
        record_calls(student, usual_image_size(student))
    except InputError:
        return known
    return None


def end_in_projection(
    student: nn.Module, width: int, side: int, *, image_size: int | None = None
) -> nn.Linear:
    """Give a network a new end: a `Projection`, and a classifier behind it; see `reuse_classifier`.

    Args:
        student: Network to change, in place.
        width: What the classifier reads.
        side: Side of the map to which larger ones of the student are pooled.
        image_size: Side in pixels of the student's images; by default what `feature_layers` takes.

    Returns:
        The new classifier.

    Raises:
        InputError: The layers of the network are not found.
    """
    layers = feature_layers(student, image_size=image_size)
    old = student.get_submodule(layers.classifier)
    if not isinstance(old, nn.Linear):
        raise InputError(f"the student's classifier is {old}: SimKD replaces a linear layer.")
    end = Projection(old.in_features, width, side)
    classifier = nn.Linear(width, old.out_features)
    pooled, replaced = layers.pooled, layers.classifier
    if _pools_to_a_vector(student, layers, old.in_features, image_size or usual_image_size(student)):
        student.set_submodule(pooled, end.to(old.weight))
        student.set_submodule(replaced, classifier.to(old.weight))
    else:
        both = nn.Sequential(OrderedDict(projection=end, classifier=classifier))
        student.set_submodule(replaced, both.to(old.weight))
        pooled, replaced = f"{replaced}.projection", f"{replaced}.classifier"
    stated = {
        "feature_layers": layers.stages,
        "preactivation_layers": layers.preactivations,
        "pooled_layer": pooled,
        "classifier_layer": replaced,
        "projector_layer": f"{pooled}.projector",
    }
    for name, value in stated.items():
        setattr(student, name, value)
    return classifier


def parse_end(name: str) -> tuple[int, int, int | None, str] | None:
    """Return width, side, size of the images and the name of the rest, or None for another spelling.

    Example:
        >>> parse_end("256x8:resnet8"), parse_end("256x8@96:nets:make")
        ((256, 8, None, 'resnet8'), (256, 8, 96, 'nets:make'))
    """
    found = re.fullmatch(r"(\d+)x(\d+)(?:@(\d+))?:(.+)", name)
    return (int(found[1]), int(found[2]), int(found[3]) if found[3] else None, found[4]) if found else None


def _convolution(width: int, wanted: int, side: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(width, wanted, side, padding=side // 2, bias=False)
    return convolution, nn.BatchNorm2d(wanted), nn.ReLU()


def _pools_to_a_vector(network: nn.Module, layers: FeatureLayers, width: int, image_size: int) -> bool:
    """Whether the module in which a network pools averages maps of so many channels over all positions."""
    pooled = layers.pooled
    if pooled != layers.before_pooling and "pool" in type(network.get_submodule(pooled)).__name__.lower():
        with evaluating(network), torch.no_grad():
            image = noise(network, image_size)
            before = Capture(network, [layers.before_pooling])(image).features[layers.before_pooling]
        return before.ndim == 4 and before.shape[1] == width
    return False

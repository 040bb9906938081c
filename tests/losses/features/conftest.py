import pytest
import torch

from cmkd.losses.features import Outputs


def make_outputs(*shapes, seed=0, dtype=torch.float64, relu=False, classes=10):
    """Random features by the names of the alphabet, with random logits."""
    generator = torch.Generator().manual_seed(seed)
    features = {}
    for name, shape in zip("abcdefgh", shapes, strict=False):
        x = torch.randn(shape, generator=generator, dtype=dtype)
        features[name] = (x.relu() if relu else x).requires_grad_()
    logits = torch.randn(shapes[0][0], classes, generator=generator, dtype=dtype)
    return Outputs(logits.requires_grad_(), features)


@pytest.fixture(name="make_outputs")
def _make_outputs():
    return make_outputs


@pytest.fixture
def maps():
    """A student and a teacher of two stages, with other widths and once with another size."""
    student = make_outputs((5, 3, 8, 8), (5, 4, 4, 4), seed=1, relu=True)
    teacher = make_outputs((5, 6, 8, 8), (5, 7, 2, 2), seed=2, relu=True)
    return student, teacher


@pytest.fixture
def vectors():
    """Embeddings of a student and a teacher of two widths."""
    return make_outputs((6, 5), seed=3), make_outputs((6, 8), seed=4)

from typing import NamedTuple

import pytest
import torch
from torch import Tensor


class Case(NamedTuple):
    student: Tensor
    teacher: Tensor
    target: Tensor


def make_case(samples=7, classes=10, seed=0, dtype=torch.float64, positions=()):
    generator = torch.Generator().manual_seed(seed)
    shape = (samples, classes, *positions)
    return Case(
        student=2 * torch.randn(shape, generator=generator, dtype=dtype),
        teacher=3 * torch.randn(shape, generator=generator, dtype=dtype),
        target=torch.randint(0, classes, (samples, *positions), generator=generator),
    )


@pytest.fixture
def case():
    """Random logits and labels, float64, 7 samples and 10 classes."""
    return make_case()


@pytest.fixture(name="make_case")
def _make_case():
    return make_case

import os

import pytest
import torch
import torch.nn.functional as F
from torch import nn


def network(width, seed):
    """With batch norm and dropout, whose mode shows in what they return."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(8, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 10)
        )


@pytest.fixture(autouse=True)
def _own_environment():
    """Lightning leaves its place among the processes there, which later tests would take for theirs."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def teacher():
    return network(32, seed=1)


@pytest.fixture
def student():
    return network(16, seed=2)


@pytest.fixture
def batches(teacher):
    """Inputs (12, 8), labelled by the teacher."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(48, 8, generator=generator)
    labels = teacher.eval()(inputs).argmax(1)
    teacher.train()  # as somebody may hand it over
    return list(zip(inputs.split(12), labels.split(12), strict=True))


def steps_by_hand(student, teacher, batches, loss, *, lr=0.1, task_weight=None):
    """Return the losses of a loop of plain PyTorch, one SGD step per batch."""
    torch.manual_seed(3)
    teacher.requires_grad_(False).eval()
    optimizer = torch.optim.SGD(student.train().parameters(), lr=lr)
    weight = loss.task_weight if task_weight is None else task_weight
    losses = []
    for inputs, labels in batches:
        logits = student(inputs)
        value = weight * F.cross_entropy(logits, labels) + loss(logits, teacher(inputs), labels)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses

"""What `benchmarks/ranking.py` compares: every contestant maps student and teacher logits to a loss.

Each does the whole work of one training step from raw logits: standardising, ranking the teacher (exactly,
or by what the method calls equivalent), the loss. The gradient with respect to the student's logits is taken
by whoever measures.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from cmkd import CMKDLoss
from cmkd.functional import RankMethod, spearman_loss, standardize
from cmkd.kernels import native, switch

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Contestant:
    """One thing to be measured.

    Args:
        title: How it is called in tables.
        loss: Student logits (requiring grad) and teacher logits, (B, C), to a scalar.
        context: Entered around every call.
        backward: Whether there is a gradient to take.
    """

    title: str
    loss: Loss
    context: Callable[[], AbstractContextManager[object]] = nullcontext
    backward: bool = True

    def step(self, student: Tensor, teacher: Tensor) -> None:
        """Do once what is measured; the gradient is made and dropped."""
        with self.context():
            value = self.loss(student, teacher)
            if self.backward:
                torch.autograd.grad(value, student)


def contestants(device: str) -> dict[str, Contestant]:
    """Return all that can run on a device, by key; the keys are those of the JSON files."""
    found = {
        "kl": Contestant("KL, T = 4", kl_loss),
        "sort": Contestant("torch.sort of the teacher", _sort, backward=False),
    }
    fast = device != "cpu" or native.available()
    methods: tuple[RankMethod, ...] = ("binned", "laplace", "l2")
    for method in methods:
        loss = functools.partial(spearman_loss, method=method)
        if fast:
            found[method] = Contestant(f"Spearman, {method}", loss)
        found[f"{method}-pure"] = Contestant(f"Spearman, {method}, pure torch", loss, switch.disabled)
    for package in ("torchsort", "torchpsort"):
        if find_spec(package):
            peer = Contestant(f"Spearman, {package} l2", peer_loss(package))
            if _runs(peer, device):
                found[package] = peer
    if fast:
        found["cmkd"] = Contestant("whole CMKD loss", CMKDLoss())
    found["cmkd-pure"] = Contestant("whole CMKD loss, pure torch", CMKDLoss(), switch.disabled)
    return found


def _runs(peer: Contestant, device: str) -> bool:
    """Try it: another package may be installed without its part for this device."""
    logits = torch.tensor([[0.0, 1.0, 3.0]], device=device, requires_grad=True)
    try:
        peer.step(logits, logits.detach())
    except (ImportError, RuntimeError) as error:
        print(f"left out: {peer.title} on {device}: {error}")
        return False
    return True


def kl_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Hinton's KL at T = 4, in the form that is fastest in PyTorch: logarithms on both sides."""
    log_p, log_q = F.log_softmax(student / 4, 1), F.log_softmax(teacher / 4, 1)
    return F.kl_div(log_p, log_q, log_target=True, reduction="batchmean") * 16


def _sort(_: Tensor, teacher: Tensor) -> Tensor:
    return teacher.sort(dim=1).values


def peer_loss(package: str) -> Loss:
    """Return the same loss built on the `soft_rank` of another package, as cheaply as it can be.

    The strength is this library's default for l2, on standardised logits; the teacher's rank is one sort that
    ignores ties (the packages' own examples sort softly on both sides, which costs more); the correlation has
    no guards. All differences from `spearman_loss` are in the other package's favour.
    """
    ranker = importlib.import_module(package).soft_rank

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        classes = student.shape[1]
        soft = ranker(
            standardize(student), regularization="l2", regularization_strength=min(3 / classes, 0.3)
        )
        order = teacher.argsort(dim=1)
        position = torch.arange(1.0, classes + 1, device=teacher.device).expand(teacher.shape)
        rank = torch.empty_like(soft).scatter_(1, order, position)
        soft, rank = soft - soft.mean(1, keepdim=True), rank - rank.mean(1, keepdim=True)
        return (1 - F.cosine_similarity(soft, rank, dim=1)).mean()

    return loss

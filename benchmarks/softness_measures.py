"""What `benchmarks/softness.py` measures of a soft rank at one softness and one number of classes.

The loss is always 1 - Pearson(soft rank of the student, exact rank of the teacher), row by row. Rows are
independent problems (no step mixes them), so the rows of one batch are the repetitions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cmkd.functional import RankMethod, exact_rank, pearson, soft_rank, spearman, spearman_loss, standardize
from cmkd.functional.soft_rank_binned import binned_rank
from cmkd.functional.soft_rank_l2 import permutahedron_rank
from cmkd.functional.soft_rank_laplace import laplace_rank

_RANK_OF_STANDARDIZED = {"binned": binned_rank, "laplace": laplace_rank, "l2": permutahedron_rank}
SHAPES = ("normal", "heavy")
# Steps of training -> how far in Spearman correlation a softness may stay behind the best one.
TOLERANCES = {25: 0.01, 50: 0.005, 100: 0.002}
STEPS = tuple(TOLERANCES)
LEARNING_RATES = {"adam": (0.03, 0.1, 0.3, 1.0, 3.0), "sgd": (0.01, 0.03, 0.1, 0.3, 1.0)}
# Of the largest gradient: with less than this a value does not move, it drifts by rounding.
NO_GRADIENT = 1e-5


def draw(shape: str, rows: int, classes: int, generator: torch.Generator) -> Tensor:
    """Draw standardised logits, (rows, classes).

    `"heavy"` looks like a trained network's: a Gaussian rest and some large logits (a twentieth of the
    classes, at least 1 and at most 10), 4 above it plus an exponential of mean 2.
    """
    logits = torch.randn(rows, classes, generator=generator)
    if shape == "heavy":
        large = max(1, min(classes // 20, 10))
        logits[:, :large] += 4 + 2 * torch.empty(rows, large).exponential_(generator=generator)
        order = torch.rand(rows, classes, generator=generator).argsort(1)
        logits = logits.gather(1, order)
    return standardize(logits)


def measure(
    method: RankMethod, softness: float, classes: int, *, rows: int, seed: int
) -> dict[str, dict[str, float]]:
    """Return all measures, by shape of the logits.

    Args:
        method: Kind of soft rank.
        softness: Its softness.
        classes: Length C of a row.
        rows: Repetitions.
        seed: Of the drawn logits: the same for all methods and softnesses that are compared.
    """
    generator = torch.Generator().manual_seed(seed)
    teachers = {shape: draw(shape, rows, classes, generator) for shape in SHAPES}
    students = {shape: draw(shape, rows, classes, generator) for shape in SHAPES}
    result = {}
    for shape in SHAPES:
        at_start = gradient(students[shape], exact_rank(teachers[shape]), method, softness)
        result[shape] = {
            **_bias(teachers[shape], at_start, method, softness),
            "zero_share": _without_gradient(students[shape], teachers[shape], method, softness),
            **_likeness_to_pearson(teachers[shape], students[shape], method, softness),
        }
    for optimizer in LEARNING_RATES:
        for shape, reached in _train(students, teachers, method, softness, optimizer).items():
            result[shape].update(reached)
    return result


def gradient(student: Tensor, rank: Tensor, method: RankMethod, softness: float) -> Tensor:
    """Return the gradient of every row's loss with respect to that row."""
    student = student.detach().requires_grad_()
    # The ranks of ranks are the ranks.
    loss = spearman_loss(student, rank, method=method, softness=softness, reduction="sum")
    return torch.autograd.grad(loss, student)[0]


def bend(method: RankMethod, softness: float, logits: Tensor) -> float:
    """Return how far soft ranks bend away from a straight line in the logits: 1 as exact ranks, 0 not at all.

    At 0 the Spearman loss is the Pearson loss of the logits.
    """
    soft = soft_rank(logits, method=method, softness=softness)
    straight = 1 - pearson(exact_rank(logits), logits).mean()
    return ((1 - pearson(soft, logits).mean()) / straight).item()


def likeness_when_pooled(strength: float, classes: int, *, rows: int, seed: int) -> float:
    """Return the mean cosine of the l2 loss's gradient with that of r(student's logits, teacher's ranks).

    1 where the projection has pooled whole rows. The student is the teacher plus as much noise; both normal.
    """
    generator = torch.Generator().manual_seed(seed)
    teacher = draw("normal", rows, classes, generator)
    student = standardize(teacher + draw("normal", rows, classes, generator))
    rank = exact_rank(teacher)
    ours = gradient(student, rank, "l2", strength * classes)
    leaf = student.detach().requires_grad_()
    theirs = torch.autograd.grad((1 - pearson(leaf, rank)).sum(), leaf)[0]
    return torch.cosine_similarity(ours, theirs, dim=1).mean().item()


def _bias(teacher: Tensor, at_start: Tensor, method: RankMethod, softness: float) -> dict[str, float]:
    """Compare the gradient of students without fault, which should have none, to that at the start.

    One student is the teacher; the other has its order, and the spacing of an exponential distribution.
    """
    rank = exact_rank(teacher)
    spaced = standardize(-torch.log1p(-(rank - 0.5) / rank.shape[1]))
    return {
        name: (_norm(gradient(student, rank, method, softness)) / _norm(at_start)).item()
        for name, student in (("bias_same", teacher), ("bias_spaced", spaced))
    }


def _norm(gradients: Tensor) -> Tensor:
    return gradients.square().sum(1).mean().sqrt()


def _likeness_to_pearson(
    teacher: Tensor, noise: Tensor, method: RankMethod, softness: float
) -> dict[str, float]:
    """Return the mean cosine with the gradients of two Pearson losses, at a student half like the teacher."""
    student = standardize(teacher + noise)
    ours = gradient(student, exact_rank(teacher), method, softness)
    result = {}
    for name, values in (("cosine_logits", _same), ("cosine_softmax", _softmax_of_scores)):
        leaf = student.detach().requires_grad_()
        loss = (1 - pearson(values(leaf), values(teacher))).sum()
        theirs = torch.autograd.grad(loss, leaf)[0]
        result[name] = torch.cosine_similarity(ours, theirs, dim=1).mean().item()
    return result


def _same(logits: Tensor) -> Tensor:
    return logits


def _softmax_of_scores(logits: Tensor) -> Tensor:
    return standardize(logits).softmax(1)


def _train(
    students: dict[str, Tensor],
    teachers: dict[str, Tensor],
    method: RankMethod,
    softness: float,
    optimizer: str,
) -> dict[str, dict[str, float]]:
    """Return the exact Spearman correlation after some steps on the logits themselves.

    All learning rates are tried, and the best is taken for every number of steps. Adam moves every value at
    the same pace, however small its gradient; SGD (momentum 0.9) does not. Its loss is scaled to a root mean
    square gradient of 1 at the start, so that the rates mean the same for both and for every softness.
    """
    shapes = list(students)
    rates = LEARNING_RATES[optimizer]
    start = torch.cat([students[shape] for shape in shapes])
    rank = exact_rank(torch.cat([teachers[shape] for shape in shapes])).repeat(len(rates), 1)
    copies = [start.clone().requires_grad_() for _ in rates]
    groups = [{"params": [copy], "lr": rate} for copy, rate in zip(copies, rates, strict=True)]
    if optimizer == "adam":
        stepper: torch.optim.Optimizer = torch.optim.Adam(groups)
        scale: Tensor | float = 1.0
    else:
        stepper = torch.optim.SGD(groups, momentum=0.9)
        at_start = gradient(torch.cat(copies), rank, method, softness)
        scale = 1 / at_start.square().mean(1).sqrt().clamp(min=1e-12)
    result: dict[str, dict[str, float]] = {shape: {} for shape in shapes}
    for step in range(1, max(STEPS) + 1):
        stepper.zero_grad()
        loss = spearman_loss(torch.cat(copies), rank, method=method, softness=softness, reduction="none")
        (scale * loss).sum().backward()
        stepper.step()
        if step in STEPS:
            # (learning rates, shapes, rows) -> mean over the rows
            reached = spearman(torch.cat(copies).detach(), rank)
            table = reached.reshape(len(copies), len(shapes), -1).mean(2)
            for shape, per_rate in zip(shapes, table.unbind(1), strict=True):
                best = int(per_rate.argmax())
                result[shape][f"{optimizer}_{step}"] = per_rate[best].item()
                result[shape][f"{optimizer}_{step}_rate"] = rates[best]
    return result


def _without_gradient(student: Tensor, teacher: Tensor, method: RankMethod, softness: float) -> float:
    """Return the share of values that their neighbours in the row do not move.

    Taken before the standardisation, which passes a little of every gradient on to all values of the row.
    """
    z = student.detach().requires_grad_()
    width = softness / z.shape[1] if method == "l2" else softness
    loss = 1 - pearson(_RANK_OF_STANDARDIZED[method](z, width), exact_rank(teacher))
    size = torch.autograd.grad(loss.sum(), z)[0].abs()
    return (size < NO_GRADIENT * size.max()).float().mean().item()


def shortfall(
    of_softness: dict[str, dict[str, float]], others: Sequence[dict[str, dict[str, float]]]
) -> float:
    """Return how far a softness stays behind the best one in Spearman, in tolerances, in its worst case.

    The cases are all shapes, optimisers and numbers of steps: up to 1 it counts as no slower than the best.
    """
    cases = [
        (shape, f"{optimizer}_{step}", tolerance)
        for shape in SHAPES
        for optimizer in LEARNING_RATES
        for step, tolerance in TOLERANCES.items()
    ]
    return max(
        (max(each[shape][key] for each in others) - of_softness[shape][key]) / tolerance
        for shape, key, tolerance in cases
    )


def worst_bias(of_softness: dict[str, dict[str, float]]) -> float:
    """Return the largest bias over shapes and spacings."""
    return max(of_softness[shape][name] for shape in SHAPES for name in ("bias_same", "bias_spaced"))

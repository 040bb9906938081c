"""The correlation terms of CMKD in differentiable tensor operations: what faster ways are held against."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cmkd.functional.correlation import pearson
from cmkd.functional.divergence import entropy, log_probabilities
from cmkd.functional.logits import as_rows
from cmkd.functional.normalization import is_constant, standardize
from cmkd.functional.precision import as_float, full_precision
from cmkd.functional.rank import RankMethod, bounded_softness, default_softness, exact_rank, soft_rank
from cmkd.functional.soft_rank_binned import number_of_knots
from cmkd.functional.tracing import is_traced


class TermOptions(NamedTuple):
    """What the terms are computed with."""

    method: RankMethod = "binned"
    softness: float | None = None
    tau: float = 1.0


def softness_of(options: TermOptions, classes: int) -> float:
    """Return the softness of rows of so many classes."""
    if options.softness is None:
        return default_softness(options.method, classes)
    return bounded_softness(options.softness)


def knots_of(options: TermOptions, classes: int) -> int:
    """Return the knots of the binned rank of rows of so many classes; 0 for other ranks."""
    return number_of_knots(softness_of(options, classes)) if options.method == "binned" else 0


#: Factors of the Pearson term, None if that is left out, and of the Spearman term.
Weights = tuple[Tensor | None, Tensor]
#: Their weighted sum, Pearson term, Spearman term.
Terms = tuple[Tensor, Tensor | None, Tensor]


def define_terms(
    student: Tensor, teacher: Tensor, weights: Weights, options: TermOptions, mask: Tensor | None
) -> Terms:
    """Compute the weighted sum and both terms of (N, C) or (N, C, *) logits, weights (N, *); each (N, *)."""
    shape = (student.shape[0], *student.shape[2:])
    values, ranks = weights
    valid = None if mask is None else as_rows(mask.expand(student.shape))
    flat = (None if values is None else values.reshape(-1), ranks.reshape(-1))
    weighted, pearson_term, spearman_term = define_rows(
        as_rows(student), as_rows(teacher), flat, options, valid
    )
    if pearson_term is not None:
        pearson_term = pearson_term.reshape(shape)
    return weighted.reshape(shape), pearson_term, spearman_term.reshape(shape)


def define_rows(
    student: Tensor, teacher: Tensor, weights: Weights, options: TermOptions, mask: Tensor | None
) -> Terms:
    """Compute the weighted sum and both terms of (M, C) rows, weights and mask likewise; each (M,)."""
    with full_precision(student):
        student, teacher = blank_rows(as_float(student), as_float(teacher), mask, dim=-1)
        # What is constant but for rounding has no ranks either.
        teacher = torch.where(is_constant(teacher, mask=mask), 0.0, teacher)
        soft = soft_rank(student, method=options.method, softness=options.softness, mask=mask)
        spearman_term = 1 - pearson(soft, exact_rank(teacher, mask=mask), mask=mask)
        pearson_term = None
        if weights[0] is not None:
            pearson_term = 1 - pearson(
                _soften(student, options.tau, mask), _soften(teacher, options.tau, mask), mask=mask
            )
        return weigh(pearson_term, spearman_term, weights), pearson_term, spearman_term


def blank_rows(student: Tensor, teacher: Tensor, mask: Tensor | None, *, dim: int) -> tuple[Tensor, Tensor]:
    """Set rows with NaN or infinity in a valid place of either to 0, so that they count as constant."""
    finite = student.isfinite() & teacher.isfinite()
    # Where it costs nothing to look, that is the end of it.
    if student.device.type == "cpu" and not is_traced() and bool(finite.all()):
        return student, teacher
    comparable = (finite if mask is None else finite | ~mask).all(dim, keepdim=True)
    return torch.where(comparable, student, 0.0), torch.where(comparable, teacher, 0.0)


def _soften(rows: Tensor, tau: float, mask: Tensor | None) -> Tensor:
    return log_probabilities(standardize(rows, mask=mask), temperature=tau, mask=mask).exp()


def weigh(pearson_term: Tensor | None, spearman_term: Tensor, weights: Weights) -> Tensor:
    """Return the weighted sum of the terms."""
    ranked = weights[1] * spearman_term
    if pearson_term is None or weights[0] is None:
        return ranked
    return weights[0] * pearson_term + ranked


def define_entropy(rows: Tensor, tau: float, mask: Tensor | None) -> Tensor:
    """Compute `cmkd.functional.fused.normalized_entropy` of (M, C) rows; (M,)."""
    with full_precision(rows):
        finite = rows.isfinite()
        finite = (finite if mask is None else finite | ~mask).all(-1, keepdim=True)
        z = standardize(torch.where(finite, as_float(rows), 0.0), mask=mask)
        count = torch.full_like(z[:, 0], z.shape[1]) if mask is None else mask.sum(-1, dtype=z.dtype)
        # One class has no entropy, and says as little as a constant row.
        share = entropy(z, temperature=tau, mask=mask) / count.clamp(min=2).log()
        return torch.where(count < 2, 1.0, share).clamp(0.0, 1.0)

"""The computation of CMKD, which its function and its module share: two terms and their weight."""

from __future__ import annotations

import torch
from torch import Tensor

from cmkd.functional import exact_rank, log_probabilities, pearson, soft_rank, standardize
from cmkd.functional.precision import full_precision
from cmkd.losses.base import flatten, reduce
from cmkd.losses.cmkd_options import CMKDOptions, CMKDParts, PearsonInput, check_cmkd_options
from cmkd.losses.difficulty import difficulty_weight, sample_difficulty
from cmkd.losses.dist import intra_class
from cmkd.losses.watch import SpearmanWatch, shared_watch


def weigh_terms(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor | None,
    options: CMKDOptions,
    *,
    watch: SpearmanWatch | None = None,
) -> CMKDParts:
    """Compute the loss and its parts; shapes, options and errors as in `cmkd.losses.cmkd_loss`.

    Args:
        student_logits: (N, C) or (N, C, *).
        teacher_logits: Of the same shape.
        target: (N,) or (N, *) int64, or None.
        options: All of them.
        watch: Counts calls for the warning; None takes the one of this process for such input.
    """
    check_cmkd_options(options)
    rank_method, softness = options["rank_method"], options["rank_softness"]
    student, teacher, labels, shape = flatten(student_logits, teacher_logits, target)
    with full_precision(student):
        hardness, weight = _weigh(student, teacher, labels, options)

        student_values = _pearson_input(student, options["pearson_input"], options["tau"])
        teacher_values = _pearson_input(teacher, options["pearson_input"], options["tau"])
        value_term = 1 - pearson(student_values, teacher_values)

        soft = soft_rank(student, method=rank_method, softness=softness)
        rank_term = 1 - pearson(soft, exact_rank(teacher))
        if not torch.compiler.is_compiling():
            watch = watch or shared_watch(rank_method, student.shape[1])
            watch.look(soft, student, method=rank_method, softness=softness)

        value_share = 1 - weight if options["combination"] == "convex" else torch.ones_like(weight)
        per_sample = (
            options["pearson_weight"] * value_share * value_term
            + options["spearman_weight"] * weight * rank_term
        )
        intra_weight = options["intra_weight"]
        intra = intra_class(student_values, teacher_values) if intra_weight else torch.zeros_like(weight[0])
        loss = reduce(options["alpha"] * (per_sample + intra_weight * intra), shape, options["reduction"])
    return CMKDParts(
        loss=loss,
        pearson=value_term.detach().reshape(shape),
        spearman=rank_term.detach().reshape(shape),
        weight=weight.reshape(shape),
        difficulty=hardness.reshape(shape),
        intra=intra.detach(),
    )


def _weigh(
    student: Tensor, teacher: Tensor, labels: Tensor | None, options: CMKDOptions
) -> tuple[Tensor, Tensor]:
    """Return the raw difficulty of every row and the weight w that follows from it, both (M,)."""
    if options["difficulty"] == "constant":
        weight = torch.full_like(student[:, 0], options["constant_weight"])
        return weight, weight
    hardness = sample_difficulty(student, teacher, labels, measure=options["difficulty"], tau=options["tau"])
    weight = difficulty_weight(hardness, options["difficulty_scale"])
    return hardness, 1 - weight if options["hard_samples"] == "values" else weight


def _pearson_input(logits: Tensor, kind: PearsonInput, tau: float) -> Tensor:
    if kind == "logits":
        return logits
    return log_probabilities(standardize(logits) if kind == "zscore" else logits, temperature=tau).exp()

"""The computation of CMKD, which its function and its module share: two terms and their weight."""

from __future__ import annotations

import torch
from torch import Tensor

from cmkd.functional import fused_triton, log_probabilities, pearson, standardize
from cmkd.functional.definition import TermOptions, blank_rows
from cmkd.functional.fused import correlation_terms
from cmkd.functional.fused_triton import Weighting
from cmkd.functional.logits import as_rows, check_logits, common_dtype
from cmkd.functional.precision import as_float, float_dtype, full_precision
from cmkd.functional.tracing import is_traced
from cmkd.losses.cmkd_options import CMKDOptions, CMKDParts, check_cmkd_options
from cmkd.losses.difficulty import difficulty_weight, sample_difficulty
from cmkd.losses.dist import intra_class
from cmkd.losses.watch import SpearmanWatch, shared_watch

#: Difficulty of every sample and the weight w of its Spearman term, both (N, *).
Weighed = tuple[Tensor, Tensor]


def weigh_terms(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor | None,
    options: CMKDOptions,
    *,
    mask: Tensor | None = None,
    watch: SpearmanWatch | None = None,
    parts: bool = True,
    weighed: Weighed | None = None,
) -> CMKDParts | Tensor:
    """Compute the loss and its parts; shapes, options and errors as in `cmkd.losses.cmkd_loss`.

    Args:
        student_logits: (N, C) or (N, C, *).
        teacher_logits: Of the same shape.
        target: (N,) or (N, *) int64, or None.
        options: All of them.
        mask: Valid classes, bool: (C,), (N, C) or the shape of the logits; or None.
        watch: Counts calls for the warning; None takes the one of this process for such input.
        parts: Return the parts, and not the loss alone.
        weighed: Difficulty and weight of these samples, where the batch that they follow from is larger.
    """
    check_cmkd_options(options)
    valid = check_logits(student_logits, teacher_logits, target, mask)
    student, teacher = student_logits, teacher_logits.detach()
    dtype = common_dtype(student, teacher)
    if dtype == torch.float64:
        student, teacher = student.double(), teacher.double()
    ranking = TermOptions(options["rank_method"], options["rank_softness"], options["tau"])
    if not is_traced():
        watch = watch or shared_watch(ranking.method, student.shape[1])
        watch.look(student, method=ranking.method, softness=ranking.softness, mask=valid)
        if weighed is None and _is_plain(options) and fused_triton.usable(student, teacher, ranking, valid):
            return _on_gpu(student, teacher, ranking, options, valid, parts)

    fused = options["pearson_input"] == "zscore"
    student, teacher = blank_unchecked(student, teacher, options, valid)
    with full_precision(student):
        hardness, weight = weighed or weigh_samples(student, teacher, target, options, valid)
        samples = weight.numel()
        scale = options["alpha"] / samples if options["reduction"] == "mean" else options["alpha"]
        value_share = 1 - weight if options["combination"] == "convex" else torch.ones_like(weight)
        value_weight = scale * options["pearson_weight"] * value_share
        per_sample = options["reduction"] == "none"
        loss, value_term, rank_term = correlation_terms(
            student,
            teacher,
            value_weight=value_weight if fused else None,
            rank_weight=scale * options["spearman_weight"] * weight,
            options=ranking,
            mask=valid,
            per_sample=per_sample,
        )
        intra_weight, intra = options["intra_weight"], torch.zeros((), dtype=dtype, device=student.device)
        if value_term is None or intra_weight:
            mine, theirs = (_pearson_input(x, options, valid) for x in (student, teacher))
            if value_term is None:
                value_term = 1 - pearson(mine, theirs, dim=1, mask=valid)
                weighted = value_weight * value_term
                loss = loss + (weighted if per_sample else weighted.sum())
            if intra_weight:
                intra = _intra_class(mine, theirs, valid)
                # Every sample carries it.
                loss = loss + options["alpha"] * intra_weight * intra * (
                    samples if options["reduction"] == "sum" else 1
                )
    if not parts:
        return loss
    return CMKDParts(
        loss=loss,
        pearson=value_term.detach(),
        spearman=rank_term,
        weight=weight,
        difficulty=hardness,
        intra=intra.detach(),
    )


def blank_unchecked(
    student: Tensor, teacher: Tensor, options: CMKDOptions, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Set rows with NaN or infinity to 0 where `check_logits` has not looked and nothing later does."""
    was_checked = student.device.type == "cpu" and not is_traced()
    fused = options["pearson_input"] == "zscore"
    if was_checked or (fused and not options["intra_weight"] and options["difficulty"] != "teacher_ce"):
        return student, teacher
    return blank_rows(student, teacher, mask, dim=1)


def _is_plain(options: CMKDOptions) -> bool:
    """Whether the kernels that compute CMKD as a whole know these options."""
    return (
        options["pearson_input"] == "zscore"
        and options["difficulty"] == "teacher_entropy"
        and options["difficulty_scale"] in ("batch_rank", "none")
        and options["intra_weight"] == 0
    )


def _on_gpu(
    student: Tensor,
    teacher: Tensor,
    ranking: TermOptions,
    options: CMKDOptions,
    mask: Tensor | None,
    parts: bool,
) -> CMKDParts | Tensor:
    """Compute everything in two launches, and the gradient in a third: a launch costs more than its work."""
    samples = student.numel() // student.shape[1]
    result = fused_triton.whole_loss(
        student,
        teacher,
        options=ranking,
        weighting=Weighting(
            scale="none" if options["difficulty_scale"] == "none" else "batch_rank",
            flip=options["hard_samples"] == "values",
            convex=options["combination"] == "convex",
            pearson_weight=options["pearson_weight"],
            spearman_weight=options["spearman_weight"],
            factor=options["alpha"] / (samples if options["reduction"] == "mean" else 1),
        ),
        mask=mask,
        per_sample=options["reduction"] == "none",
    )
    if not parts:
        return result.loss
    return CMKDParts(
        loss=result.loss,
        pearson=result.pearson,
        spearman=result.spearman,
        weight=result.weight,
        difficulty=result.difficulty,
        intra=torch.zeros_like(result.weight.flatten()[0]),
    )


def weigh_samples(
    student: Tensor, teacher: Tensor, target: Tensor | None, options: CMKDOptions, mask: Tensor | None
) -> Weighed:
    """Measure the difficulty of every sample, and weigh its terms by it."""
    hardness = measure_difficulty(student, teacher, target, options, mask)
    return hardness, weight_of(hardness, options)


def measure_difficulty(
    student: Tensor, teacher: Tensor, target: Tensor | None, options: CMKDOptions, mask: Tensor | None = None
) -> Tensor:
    """Return the raw difficulty of every sample, (N, *), which no other sample has a part in."""
    if options["difficulty"] == "constant":
        like = teacher.select(1, 0)
        return torch.full_like(like, options["constant_weight"], dtype=float_dtype(teacher))
    return sample_difficulty(
        student, teacher, target, measure=options["difficulty"], tau=options["tau"], mask=mask
    )


def weight_of(hardness: Tensor, options: CMKDOptions) -> Tensor:
    """Return the weight w of the Spearman term that follows from the difficulties of a whole batch."""
    if options["difficulty"] == "constant":
        return hardness
    weight = difficulty_weight(hardness, options["difficulty_scale"])
    return 1 - weight if options["hard_samples"] == "values" else weight


def _pearson_input(logits: Tensor, options: CMKDOptions, mask: Tensor | None) -> Tensor:
    kind, tau = options["pearson_input"], options["tau"]
    if kind == "logits":
        return as_float(logits)
    x = standardize(logits, dim=1, mask=mask) if kind == "zscore" else logits
    return log_probabilities(x, temperature=tau, dim=1, mask=mask).exp()


def _intra_class(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the classes that are valid anywhere of 1 - r along the samples."""
    if mask is None:
        return intra_class(as_rows(student), as_rows(teacher))
    valid = as_rows(mask.expand(student.shape))
    r = pearson(as_rows(student), as_rows(teacher), dim=0, mask=valid)
    used = valid.any(0)
    return ((1 - r) * used).sum() / used.sum().clamp(min=1)

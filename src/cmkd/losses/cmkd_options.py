"""The decisions that CMKD leaves open, their domains, and the parts that the loss can hand out."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor

from cmkd.errors import InputError
from cmkd.functional.rank import RankMethod
from cmkd.losses.base import Reduction, check_choice, check_number
from cmkd.losses.difficulty import Difficulty, DifficultyScale

PearsonInput = Literal["zscore", "softmax", "logits"]
HardSamples = Literal["ranks", "values"]
Combination = Literal["convex", "independent"]

_CHOICES = {
    "pearson_input": PearsonInput,
    "rank_method": RankMethod,
    "difficulty": Difficulty,
    "difficulty_scale": DifficultyScale,
    "hard_samples": HardSamples,
    "combination": Combination,
    "reduction": Reduction,
}


class CMKDParts(NamedTuple):
    """What a CMKD loss is made of. All but `loss` are detached, of shape (N, *) unless noted."""

    loss: Tensor
    """The loss, reduced as asked, with its gradient."""
    pearson: Tensor
    """Pearson term P = 1 - r per sample, in [0, 2]."""
    spearman: Tensor
    """Spearman term S = 1 - r of the ranks per sample, in [0, 2]."""
    weight: Tensor
    """Weight w of the Spearman term per sample, in [0, 1]."""
    difficulty: Tensor
    """Difficulty d per sample before it is scaled within the batch, in [0, 1]."""
    intra: Tensor
    """Intra-class term, a scalar; 0 where `intra_weight` is 0."""


def check_cmkd_options(**options: Any) -> None:
    """Raise `InputError` unless every option of CMKD is in its domain."""
    for name, known in _CHOICES.items():
        check_choice(name, options[name], get_args(known))
    for name in ("alpha", "pearson_weight", "spearman_weight", "intra_weight"):
        check_number(name, options[name])
    check_number("tau", options["tau"], positive=True)
    check_number("constant_weight", options["constant_weight"], at_most=1.0)
    if options["rank_softness"] is not None:
        check_number("rank_softness", options["rank_softness"], positive=True)
    if options["pearson_weight"] == options["spearman_weight"] == options["intra_weight"] == 0:
        raise InputError(
            "pearson_weight, spearman_weight and intra_weight are all 0, so nothing is left to learn from the"
            " teacher: give at least one of them a positive weight."
        )

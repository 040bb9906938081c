"""The decisions that CMKD leaves open, their domains, and the parts that the loss can hand out."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypedDict, get_args

from torch import Tensor

from cmkd.errors import InputError
from cmkd.functional.logits import Reduction
from cmkd.functional.rank import RankMethod
from cmkd.losses.base import check_choice, check_number
from cmkd.losses.difficulty import Difficulty, DifficultyScale

PearsonInput = Literal["zscore", "softmax", "logits"]
HardSamples = Literal["ranks", "values"]
Combination = Literal["convex", "independent"]
_Choice = Literal[
    "pearson_input",
    "rank_method",
    "difficulty",
    "difficulty_scale",
    "hard_samples",
    "combination",
    "reduction",
]


class CMKDOptions(TypedDict, total=False):
    """The options of CMKD, for the type checker. Described at `cmkd.losses.CMKDLoss`."""

    alpha: float
    tau: float
    pearson_input: PearsonInput
    rank_method: RankMethod
    rank_softness: float | None
    difficulty: Difficulty
    difficulty_scale: DifficultyScale
    hard_samples: HardSamples
    constant_weight: float
    combination: Combination
    pearson_weight: float
    spearman_weight: float
    intra_weight: float
    reduction: Reduction


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


# Not asked for where it is needed: the compilers of older torch do not trace get_args.
_CHOICES: dict[_Choice, tuple[str, ...]] = {
    "pearson_input": get_args(PearsonInput),
    "rank_method": get_args(RankMethod),
    "difficulty": get_args(Difficulty),
    "difficulty_scale": get_args(DifficultyScale),
    "hard_samples": get_args(HardSamples),
    "combination": get_args(Combination),
    "reduction": get_args(Reduction),
}


def check_cmkd_options(options: CMKDOptions) -> None:
    """Raise `InputError` unless every option of CMKD is in its domain and a term is left to learn from."""
    for name, known in _CHOICES.items():
        check_choice(name, options[name], known)
    check_number("alpha", options["alpha"])
    check_number("pearson_weight", options["pearson_weight"])
    check_number("spearman_weight", options["spearman_weight"])
    check_number("intra_weight", options["intra_weight"])
    check_number("tau", options["tau"], positive=True)
    check_number("constant_weight", options["constant_weight"], at_most=1.0)
    if options["rank_softness"] is not None:
        check_number("rank_softness", options["rank_softness"], positive=True)
    _check_something_to_learn(options)


def _check_something_to_learn(options: CMKDOptions) -> None:
    # alpha = 0 is let through: it switches the whole term off, and says so.
    pearson, spearman, intra = (
        options["pearson_weight"],
        options["spearman_weight"],
        options["intra_weight"],
    )
    if pearson == spearman == intra == 0:
        raise InputError(
            "pearson_weight, spearman_weight and intra_weight are all 0, so nothing is left to learn from the"
            " teacher: give at least one of them a positive weight."
        )
    constant = options["constant_weight"]
    values_dropped = pearson == 0 or (constant == 1 and options["combination"] == "convex")
    ranks_dropped = spearman == 0 or constant == 0
    if options["difficulty"] == "constant" and values_dropped and ranks_dropped and intra == 0:
        raise InputError(
            f"constant_weight {constant:g} leaves no share to the terms that have a weight (pearson_weight"
            f" {pearson:g}, spearman_weight {spearman:g}), so nothing is left to learn from the teacher:"
            " choose a constant_weight between 0 and 1, or give the other term a positive weight."
        )

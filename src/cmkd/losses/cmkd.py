"""CMKD: match the teacher's values (Pearson) and its ranking of the classes (Spearman)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast, overload

from torch import Tensor

from cmkd.functional import RankMethod
from cmkd.functional.logits import Reduction
from cmkd.losses.base import DistillationLoss
from cmkd.losses.cmkd_options import (
    CMKDOptions,
    CMKDParts,
    Combination,
    HardSamples,
    PearsonInput,
    check_cmkd_options,
)
from cmkd.losses.cmkd_terms import weigh_terms
from cmkd.losses.difficulty import Difficulty, DifficultyScale
from cmkd.losses.watch import SpearmanWatch

if TYPE_CHECKING:
    from typing_extensions import Unpack


@overload
def cmkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor | None = ...,
    *,
    mask: Tensor | None = ...,
    parts: Literal[False] = ...,
    **options: Unpack[CMKDOptions],
) -> Tensor: ...


@overload
def cmkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor | None = ...,
    *,
    mask: Tensor | None = ...,
    parts: Literal[True],
    **options: Unpack[CMKDOptions],
) -> CMKDParts: ...


def cmkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor | None = None,
    *,
    alpha: float = 32.0,
    tau: float = 1.0,
    pearson_input: PearsonInput = "zscore",
    rank_method: RankMethod = "binned",
    rank_softness: float | None = None,
    difficulty: Difficulty = "teacher_entropy",
    difficulty_scale: DifficultyScale = "batch_rank",
    hard_samples: HardSamples = "ranks",
    constant_weight: float = 0.5,
    combination: Combination = "convex",
    pearson_weight: float = 1.0,
    spearman_weight: float = 1.0,
    intra_weight: float = 0.0,
    reduction: Reduction = "mean",
    mask: Tensor | None = None,
    parts: bool = False,
) -> Tensor | CMKDParts:
    r"""Our reconstruction of CMKD: per sample, $\alpha \, [(1 - w_i) P_i + w_i S_i]$.

    $P_i = 1 - r(p_s, p_t)$ compares values by Pearson correlation; $S_i = 1 - r(R(s), \mathrm{rank}(t))$
    compares rankings, with a soft rank $R$ on the student's side. The weight $w_i$ grows with the difficulty
    of the sample and carries no gradient. Niu et al. 2024, Efficient and Robust Knowledge Distillation from A
    Stronger Teacher Based on Correlation Matching (arXiv 2410.06561), is known to us by its abstract and its
    captions; the equations are ours, and each decision in them is an option, described at `CMKDLoss`.

    The distillation term alone, without cross-entropy. Defined for all finite logits: a constant row
    correlates 0 with anything, with zero gradient. With two classes every correlation is +1 or -1, with zero
    gradient: use `kd_loss`. A class that is set to -1e4 squeezes all others into a tie: leave it out with
    `mask`. NaN and infinity raise an error on CPU; elsewhere, where looking for them would stall the device,
    their row counts as constant.

    Args:
        student_logits: (N, C) or (N, C, *); positions count as samples.
        teacher_logits: Of the same shape; no gradient flows into it.
        target: (N,) or (N, *) int64; read by difficulty `"teacher_ce"`, otherwise only checked.
        alpha: See `CMKDLoss` for this and all that follow.
        tau: Temperature.
        pearson_input: What the Pearson term compares.
        rank_method: Soft rank of the student.
        rank_softness: Softness of that rank.
        difficulty: Measure of difficulty.
        difficulty_scale: How it is spread over the batch.
        hard_samples: What hard samples lean on.
        constant_weight: The w of difficulty `"constant"`.
        combination: How w enters.
        pearson_weight: Factor of P.
        spearman_weight: Factor of S.
        intra_weight: Factor of the intra-class term.
        reduction: `"mean"` or `"sum"` over samples and positions, or `"none"`.
        mask: bool, True for every valid class: (C,), (N, C) or the shape of the logits. The loss is that of
            the valid columns alone; what stands in the others, be it NaN, has no effect. The default softness
            is that of all C classes.
        parts: Return `CMKDParts` in place of the loss alone.

    Returns:
        The loss, a scalar or (N, *) for `"none"`, float64 if an input is float64, else float32; with `parts`
        a `CMKDParts`.

    Raises:
        InputError: Input or option out of its domain; see
            `cmkd.functional.logits.check_logits`.

    Warns:
        UserWarning: Once per rank method and number of classes (the module: once), if the soft ranks have
            become an affine function of the logits, which makes the Spearman term a second Pearson term; or
            if there are only two classes. Not looked at under `torch.compile` and while a CUDA graph is
            captured: try a new setting once without.

    Example:
        >>> import torch
        >>> student = torch.tensor([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]])
        >>> teacher = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]])
        >>> parts = cmkd_loss(student, teacher, alpha=1.0, difficulty="constant", parts=True)
        >>> parts.pearson.round(decimals=4)
        tensor([0.0000, 1.7686])
    """
    options: CMKDOptions = {
        "alpha": alpha,
        "tau": tau,
        "pearson_input": pearson_input,
        "rank_method": rank_method,
        "rank_softness": rank_softness,
        "difficulty": difficulty,
        "difficulty_scale": difficulty_scale,
        "hard_samples": hard_samples,
        "constant_weight": constant_weight,
        "combination": combination,
        "pearson_weight": pearson_weight,
        "spearman_weight": spearman_weight,
        "intra_weight": intra_weight,
        "reduction": reduction,
    }
    return weigh_terms(student_logits, teacher_logits, target, options, mask=mask, parts=parts)


_OPTION_NAMES = tuple(CMKDOptions.__annotations__)


class CMKDLoss(DistillationLoss):
    r"""Our reconstruction of CMKD (arXiv 2410.06561): values by Pearson, ranking by Spearman.

    Module form of `cmkd_loss`, $\alpha \, [(1 - w_i) P_i + w_i S_i]$. The distillation term alone; the
    objective is `cross_entropy + loss`.

    Args:
        alpha: Scale $\alpha$ of the whole term.
        tau: Temperature $\tau > 0$ of probabilities and entropies (in standard deviations where logits are
            z-scored).
        pearson_input: What the Pearson term compares: `"zscore"`, $\mathrm{softmax}(z / \tau)$ of the
            z-scored logits $z$; `"softmax"`, $\mathrm{softmax}(x / \tau)$; `"logits"`, $x$ itself. The first
            is the logit standardisation that other losses have as an option of its own; ranks do not change
            under it.
        rank_method: Soft rank on the student's side: `"binned"`, `"laplace"` or `"l2"`, see
            `cmkd.functional.soft_rank`. The teacher's side always has the exact, tie-averaged rank.
        rank_softness: Softness of that rank; None takes `cmkd.functional.default_softness`.
        difficulty: `"teacher_entropy"`, `"student_entropy"`, `"teacher_ce"` (reads the target) or
            `"constant"`; see `cmkd.losses.difficulty.sample_difficulty`.
        difficulty_scale: `"batch_rank"`, `"batch_standardize"` or `"none"`: how difficulties are spread over
            [0, 1] within the batch. The raw entropy of z-scored logits is close to 1 for nearly every sample,
            which would leave the ranking alone; batch ranks have mean 1/2 by construction. By construction,
            too, they spread any batch over [0, 1], however little its difficulties differ: whether they do
            is to be seen from `difficulty`, the raw measure, among the parts, and not from `weight`.
        hard_samples: What hard samples lean on: `"ranks"` (w grows with the difficulty) or `"values"` (w
            falls with it, as 1 - w).
        constant_weight: The w of every sample if difficulty is `"constant"`, in [0, 1]; scale and direction
            do not apply to it.
        combination: `"convex"`, $(1 - w) P + w S$, or `"independent"`, $P + w S$.
        pearson_weight: Further factor of the Pearson term.
        spearman_weight: Further factor of the Spearman term.
        intra_weight: Factor of the mean over classes of 1 - Pearson correlation along the batch, as in DIST,
            on what `pearson_input` names. Inside the bracket, so times alpha.
        reduction: `"mean"` or `"sum"` over samples and positions, or `"none"`, where every sample carries the
            common intra-class term, so that the mean of `"none"` is `"mean"`.

    Example:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> distill = CMKDLoss(alpha=8.0)
        >>> logits, target = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([1])
        >>> teacher_logits = torch.tensor([[1.0, 3.0, 2.0]])
        >>> loss = F.cross_entropy(logits, target) + distill(logits, teacher_logits, target)
    """

    def __init__(
        self,
        *,
        alpha: float = 32.0,
        tau: float = 1.0,
        pearson_input: PearsonInput = "zscore",
        rank_method: RankMethod = "binned",
        rank_softness: float | None = None,
        difficulty: Difficulty = "teacher_entropy",
        difficulty_scale: DifficultyScale = "batch_rank",
        hard_samples: HardSamples = "ranks",
        constant_weight: float = 0.5,
        combination: Combination = "convex",
        pearson_weight: float = 1.0,
        spearman_weight: float = 1.0,
        intra_weight: float = 0.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        self.alpha = alpha
        self.tau = tau
        self.pearson_input = pearson_input
        self.rank_method = rank_method
        self.rank_softness = rank_softness
        self.difficulty = difficulty
        self.difficulty_scale = difficulty_scale
        self.hard_samples = hard_samples
        self.constant_weight = constant_weight
        self.combination = combination
        self.pearson_weight = pearson_weight
        self.spearman_weight = spearman_weight
        self.intra_weight = intra_weight
        check_cmkd_options(self._cmkd_options())
        self.watch = SpearmanWatch()

    @property
    def across_batch(self) -> bool:
        """True if difficulties are spread over the batch, or if there is an intra-class term."""
        spread = self.difficulty != "constant" and self.difficulty_scale != "none"
        return spread or self.intra_weight > 0

    @property
    def reads_target(self) -> bool:
        """True if the difficulty is `"teacher_ce"`."""
        return self.difficulty == "teacher_ce"

    @overload
    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        target: Tensor | None = ...,
        *,
        mask: Tensor | None = ...,
        parts: Literal[False] = ...,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        target: Tensor | None = ...,
        *,
        mask: Tensor | None = ...,
        parts: Literal[True],
    ) -> CMKDParts: ...

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        target: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        parts: bool = False,
    ) -> Tensor | CMKDParts:
        """Return the loss, or with `parts` its parts; shapes, mask and errors as in `cmkd_loss`."""
        options = self._cmkd_options()
        return weigh_terms(
            student_logits, teacher_logits, target, options, mask=mask, watch=self.watch, parts=parts
        )

    def _cmkd_options(self) -> CMKDOptions:
        """Return the options of CMKD alone, without those that a subclass may add."""
        return cast(CMKDOptions, {name: getattr(self, name) for name in _OPTION_NAMES})

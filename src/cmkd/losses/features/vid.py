"""VID: the information that the student's layers hold about the teacher's."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmkd.errors import InputError
from cmkd.losses.base import check_number
from cmkd.losses.features.base import FeatureLoss
from cmkd.losses.features.outputs import FeatureBatch, Trial
from cmkd.losses.features.shaping import to_common_size

# Keeps the variance away from zero, as published.
_EPSILON = 1e-5


class VIDLoss(FeatureLoss):
    r"""VID (Ahn et al. 2019): likelihood of the teacher's features under a Gaussian around a prediction.

    The mean over all values of $\frac{(f_t - \mu(f_s))^2}{2 \sigma_c^2} + \frac{1}{2}\log \sigma_c^2$, summed
    over the stages; $\mu$ is three 1 x 1 convolutions with ReLU between them, and the variance
    $\sigma_c^2 = \log(1 + e^{\alpha_c}) + 10^{-5}$ is learnt per channel: Variational Information
    Distillation for Knowledge Transfer (arXiv 1904.05835), section 2. The larger map is pooled down to the
    smaller. The term is negative once the variances are small.

    Args:
        initial_variance: What the variances start from.
        weight: Factor of the term.
        student_layers: Names of the student's layers; None takes the ends of all stages.
        teacher_layers: Names of the teacher's layers, paired with them.
    """

    def __init__(
        self,
        *,
        initial_variance: float = 5.0,
        weight: float = 1.0,
        student_layers: list[str] | None = None,
        teacher_layers: list[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, student_layers=student_layers, teacher_layers=teacher_layers)
        check_number("initial_variance", initial_variance, positive=True)
        if initial_variance <= _EPSILON:
            raise InputError(f"initial_variance is {initial_variance}: it has to be above {_EPSILON:g}.")
        self.initial_variance = initial_variance

    def make(self, trial: Trial) -> None:
        """Make a predictor and the variances for each layer."""
        pairs = [to_common_size(*pair) for pair in zip(trial.student, trial.teacher, strict=True)]
        # The inverse of softplus, log(exp(v) - 1), in a form that does not overflow.
        start = self.initial_variance - _EPSILON
        start += math.log(-math.expm1(-start))
        self.predictors = nn.ModuleList(_predictor(s.shape[1], t.shape[1]) for s, t in pairs)
        self.scales = nn.ParameterList(torch.full((t.shape[1],), start) for _, t in pairs)

    def compare(self, batch: FeatureBatch) -> Tensor:
        """Return the mean negative log-likelihood, up to a constant, summed over the layers."""
        total = batch.student[0].new_zeros(())
        pairs = zip(batch.student, batch.teacher, strict=True)
        for predictor, scale, pair in zip(self.predictors, self.scales, pairs, strict=True):
            student, teacher = to_common_size(*pair)
            variance = (F.softplus(scale) + _EPSILON)[:, None, None]
            error = (predictor(student) - teacher).square() / variance
            total = total + 0.5 * (error + variance.log()).mean()
        return total


def _predictor(width: int, wanted: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, wanted, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(wanted, wanted, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(wanted, wanted, 1, bias=False),
    )

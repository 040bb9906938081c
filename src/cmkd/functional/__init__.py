"""Tensor mathematics of distillation: ranks, correlations, divergences. Needs torch and nothing else.

Every function works on the rows along one dimension, computes half precision in float32 (also under
autocast), keeps float64, and gives neither NaN values nor NaN gradients for finite input.
"""

from cmkd.functional.correlation import pearson, spearman
from cmkd.functional.divergence import entropy, kl_divergence, log_probabilities
from cmkd.functional.normalization import standardize
from cmkd.functional.rank import RankMethod, default_softness, exact_rank, soft_rank
from cmkd.functional.ranking import spearman_loss

__all__ = [
    "RankMethod",
    "default_softness",
    "entropy",
    "exact_rank",
    "kl_divergence",
    "log_probabilities",
    "pearson",
    "soft_rank",
    "spearman",
    "spearman_loss",
    "standardize",
]

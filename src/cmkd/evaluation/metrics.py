"""Accuracy, calibration, and fidelity of a student to its teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmkd.data import Batch
from cmkd.evaluation.calibration import bin_sums
from cmkd.functional import kl_divergence, pearson, spearman


def on_images(network: nn.Module) -> Callable[[Batch], Tensor]:
    """Return a network, put into eval mode, as a function of a batch instead of its images."""
    network.eval()
    return lambda batch: network(batch.images)


@torch.no_grad()
def collect_logits(network: Callable[[Batch], Tensor], batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """Run a network over batches.

    Args:
        network: Maps a batch to logits `(B, C)`.
        batches: The batches.

    Returns:
        Logits `(N, C)` in float32 and targets `(N,)`, in the order of the batches; without any image, `(0,)`.
    """
    # Of several processes the last batch has no image for some, and not every network takes none.
    answered = [(network(batch).float(), batch.targets) for batch in batches if len(batch.targets)]
    if not answered:
        return torch.empty(0), torch.empty(0, dtype=torch.int64)
    logits, targets = zip(*answered, strict=True)
    return torch.cat(logits), torch.cat(targets)


def quality(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Measure a classifier against the labels.

    Args:
        logits: Logits `(N, C)`.
        targets: Class indices `(N,)`.

    Returns:
        `accuracy` and, with more than five classes, `top5` (shares, not percent); `nll`, the mean negative
        log-likelihood in nats; `ece`, the expected calibration error over 15 bins (Guo et al. 2017).
    """
    # A few lines of our own: importing torchmetrics takes twice as long as importing torch.
    scores = {"accuracy": (logits.argmax(1) == targets).double().mean().item()}
    if logits.shape[1] > 5:
        scores["top5"] = (logits.topk(5).indices == targets[:, None]).any(1).double().mean().item()
    scores["nll"] = F.cross_entropy(logits, targets).item()
    scores["ece"] = calibration_error(logits, targets)
    return scores


def calibration_error(logits: Tensor, targets: Tensor, *, bins: int = 15) -> float:
    """Return the expected calibration error (Guo et al. 2017, equation 5).

    Args:
        logits: Logits `(N, C)`.
        targets: Class indices `(N,)`.
        bins: Number of equal bins of the confidence.

    Returns:
        The mean over the samples of the gap between confidence and accuracy in their bin.
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    # (n_b / N) |mean confidence - mean accuracy| = |sum of both's difference| / N
    (gaps,) = bin_sums(confidence, confidence - (predicted == targets).double(), bins=bins)
    return gaps.abs().sum().item() / len(targets)


def fidelity(logits: Tensor, teacher_logits: Tensor) -> dict[str, float]:
    """Measure how closely a student's logits follow its teacher's.

    Args:
        logits: Student logits `(N, C)`.
        teacher_logits: Teacher logits `(N, C)` for the same images.

    Returns:
        `agreement`, the share of images given the same class; `rank_correlation`, the mean over images of
        Spearman's rho between the two rows of logits; `value_correlation`, the same with Pearson's r;
        `teacher_kl`, the mean KL divergence from the teacher's distribution to the student's, in nats.
    """
    return {
        "agreement": (logits.argmax(1) == teacher_logits.argmax(1)).float().mean().item(),
        "rank_correlation": spearman(logits, teacher_logits).mean().item(),
        "value_correlation": pearson(logits, teacher_logits).mean().item(),
        "teacher_kl": kl_divergence(logits, teacher_logits).mean().item(),
    }


def evaluate_logits(logits: Tensor, targets: Tensor, teacher_logits: Tensor | None) -> dict[str, float]:
    """Return `quality` and, where there is a teacher, `fidelity`."""
    scores = quality(logits, targets)
    if teacher_logits is not None:
        scores |= fidelity(logits, teacher_logits)
    return scores

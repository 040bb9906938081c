"""RKD: distances between images, and angles of three."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cmkd.losses.base import check_number
from cmkd.losses.features.base import FeatureLoss
from cmkd.losses.features.outputs import FeatureBatch, NetworkLayers
from cmkd.losses.features.shaping import unit, without_scale

# Differences of embeddings that are held at once; beyond it, angles are computed anew in the backward pass.
_MOST_VALUES = 2**26


class RKDLoss(FeatureLoss):
    r"""RKD (Park et al. 2019): distances and angles between the embeddings of a batch.

    $\lambda_D L_D + \lambda_A L_A$: $L_D$ is the mean over pairs of the Huber distance (threshold 1) of
    $\|x_i - x_j\| / \mu$, with $\mu$ the mean of the distances that are not zero; $L_A$ that over triples of
    $\cos \angle x_i x_j x_k$. Relational Knowledge Distillation (arXiv 1904.05068), section 3.2. As in the
    published code (the authors', RepDistiller, mdistiller) the means go over all pairs and triples, those of
    an image with itself included, which add nothing or nearly; the paper sums over distinct ones.

    Images with the same embedding have distance 0 and cosine 0, without gradient. Time and memory of the
    angles grow with the third power of the batch; large batches are worked on in pieces.

    Args:
        distance_weight: $\lambda_D$.
        angle_weight: $\lambda_A$; 0 leaves the angles out.
        weight: Factor of the whole term.
        student_layers: Names of the student's layers; None takes the pooled embedding.
        teacher_layers: Names of the teacher's layers, paired with them.

    Example:
        >>> import torch
        >>> from cmkd.losses.features import Outputs
        >>> line, bend = torch.tensor([[0.0, 0], [1, 0], [2, 0]]), torch.tensor([[0.0, 0], [1, 0], [1, 1]])
        >>> logits = torch.zeros(3, 10)
        >>> angles = RKDLoss(distance_weight=0.0, angle_weight=27.0)
        >>> angles(Outputs(logits, {"a": line}), Outputs(logits, {"a": bend}))  # (1 - 1/√2)² 2 + 1
        tensor(1.1716)
    """

    def __init__(
        self,
        *,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        weight: float = 1.0,
        student_layers: list[str] | None = None,
        teacher_layers: list[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, student_layers=student_layers, teacher_layers=teacher_layers)
        check_number("distance_weight", distance_weight)
        check_number("angle_weight", angle_weight)
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    @property
    def across_batch(self) -> bool:
        """Yes: it compares images with each other."""
        return True

    def student_rule(self, layers: NetworkLayers) -> Sequence[str]:
        """Return the pooled embedding."""
        return [layers.pooled]

    def compare(self, batch: FeatureBatch) -> Tensor:
        """Return the weighted terms, summed over the layers."""
        total = batch.student[0].new_zeros(())
        for student, teacher in zip(batch.student, batch.teacher, strict=True):
            student, teacher = without_scale(student.flatten(1)), without_scale(teacher.flatten(1))
            if self.distance_weight > 0:
                term = F.smooth_l1_loss(_distances(student), _distances(teacher))
                total = total + self.distance_weight * term
            if self.angle_weight > 0:
                total = total + self.angle_weight * _angle_term(student, teacher)
        return total


def _distances(x: Tensor) -> Tensor:
    """Map embeddings (N, D) to distances (N, N) with mean 1."""
    # By differences: the faster way, by products, has no digits left where images are alike.
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    count = (distances > 0).sum()
    mean = distances.sum() / count.clamp(min=1)
    return distances / torch.where(count > 0, mean, 1.0)


def _angle_term(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean Huber distance of the cosines at all triples."""
    count, width = len(student), max(student.shape[1], teacher.shape[1])
    rows = max(1, _MOST_VALUES // (count * max(width, count)))
    if rows >= count:
        return _angle_sum(student, teacher, student, teacher) / count**3
    from torch.utils.checkpoint import checkpoint  # brings SymPy along in older PyTorch

    pieces = [
        checkpoint(_angle_sum, s, t, student, teacher, use_reentrant=False)
        for s, t in zip(student.split(rows), teacher.split(rows), strict=True)
    ]
    return torch.stack(pieces).sum() / count**3


def _angle_sum(corners: Tensor, teacher_corners: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
    """Sum of the Huber distances of the cosines at some corners j (R, D) between all i and k (N, D)."""
    cosines = _cosines(corners, student)
    return F.smooth_l1_loss(cosines, _cosines(teacher_corners, teacher), reduction="sum")


def _cosines(corners: Tensor, x: Tensor) -> Tensor:
    """Return (R, N, N)."""
    directions = unit(x - corners.unsqueeze(1))
    return directions @ directions.transpose(1, 2)

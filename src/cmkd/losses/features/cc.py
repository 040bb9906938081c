"""CC: how the errors of neighbouring images of a batch go together."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from cmkd.losses.base import check_count
from cmkd.losses.features.base import FeatureLoss
from cmkd.losses.features.outputs import FeatureBatch, NetworkLayers, Trial


class CCLoss(FeatureLoss):
    r"""CC (Peng et al. 2019): correlation congruence, in the form of the published tables.

    With linear embeddings of both networks, learnt together, and $\delta_i = |e_s(f^s_i) - e_t(f^t_i)|$, the
    term is the mean over consecutive images of $\langle \delta_i, \delta_{i+1} \rangle$. This is what the
    authors sent to RepDistiller as their code, and what its tables hold under CC. The paper, Correlation
    Congruence for Knowledge Distillation (arXiv 1904.01802), has the squared distance of kernel matrices in
    its place; weight and embedding width of the tables belong to the code, so this follows the code.

    The embedding of the teacher is learnt, too; a batch of one image has no pairs and the term is 0.

    Args:
        width: Length of the embeddings.
        weight: Factor of the term.
        student_layers: Names of the student's layers; None takes the pooled embedding.
        teacher_layers: Names of the teacher's layers, paired with them.
    """

    def __init__(
        self,
        *,
        width: int = 128,
        weight: float = 0.02,
        student_layers: list[str] | None = None,
        teacher_layers: list[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, student_layers=student_layers, teacher_layers=teacher_layers)
        check_count("width", width)
        self.width = width

    @property
    def across_batch(self) -> bool:
        """Yes: it compares images with each other."""
        return True

    def student_rule(self, layers: NetworkLayers) -> Sequence[str]:
        """Return the pooled embedding."""
        return [layers.pooled]

    def make(self, trial: Trial) -> None:
        """Make the embeddings."""
        self.of_student = nn.ModuleList(nn.Linear(x[0].numel(), self.width) for x in trial.student)
        self.of_teacher = nn.ModuleList(nn.Linear(x[0].numel(), self.width) for x in trial.teacher)

    def compare(self, batch: FeatureBatch) -> Tensor:
        """Return the mean product of consecutive errors, summed over the layers."""
        total = batch.student[0].new_zeros(())
        for place, (student, teacher) in enumerate(zip(batch.student, batch.teacher, strict=True)):
            error = self.of_student[place](student.flatten(1)) - self.of_teacher[place](teacher.flatten(1))
            error = error.abs()
            pairs = (error[:-1] * error[1:]).sum(1)
            total = total + pairs.sum() / max(1, len(pairs))
        return total

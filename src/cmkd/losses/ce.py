"""CE: no distillation, the baseline that every method is held against."""

from __future__ import annotations

from torch import Tensor

from cmkd.losses.base import DistillationLoss, flatten, reduce


class CELoss(DistillationLoss):
    """CE: nothing is learnt from the teacher, the student is only measured against it.

    The distillation term is zero; the objective is `cross_entropy` alone.
    """

    reads_teacher = False

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None = None) -> Tensor:
        """Return zeros, with the shapes and errors of the other losses.

        Args:
            student_logits: (N, C) or (N, C, *).
            teacher_logits: Of the same shape.
            target: (N,) or (N, *) int64, or None.

        Returns:
            A scalar, or (N, *) for reduction `"none"`.

        Raises:
            InputError: The input does not fit together.
        """
        student, _, _, shape = flatten(student_logits, teacher_logits, target)
        return reduce(student[:, 0] * 0, shape, self.reduction)

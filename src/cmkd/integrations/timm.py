"""timm: a training task with any loss on logits, in the place of timm's own with a KL divergence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cmkd.errors import InputError
from cmkd.integrations.common import check_loss, check_task_weight, class_indices, freeze, logits_of, missing
from cmkd.losses.tokens import TokenLoss

try:
    from timm.task import LogitDistillationTask
except ModuleNotFoundError as error:
    if error.name not in ("timm", "timm.task"):
        raise
    raise missing("timm", "timm") from None
if not hasattr(LogitDistillationTask, "get_trainable_module"):  # its first tasks kept the student elsewhere
    raise missing("timm", "timm")


class DistillationTask(LogitDistillationTask):
    """timm's `LogitDistillationTask` with `CMKDLoss`, or another loss, for its KL divergence.

    The call, what it returns (`loss`, `output`, `task_loss`, `kd_loss`), the teacher (a name, a network, or
    timm's `DistillationTeacher`, which brings images to the teacher's mean and standard deviation),
    compilation, distributed training, moving averages and checkpoints are timm's. In timm's `train.py` it
    takes the place of its parent by one line after the imports:

        from cmkd.integrations.timm import DistillationTask as LogitDistillationTask

    The loss is `task_loss_weight * criterion + distill_loss_weight * loss`. Left open, the weights are those
    of the method, `loss.task_weight` and 1; with `task_loss_weight` alone the other is 1 less it, as timm has
    it. Targets that are no class indices, as those of mixup, go to the criterion alone.

    Args:
        student_model: A timm network, or one with `pretrained_cfg`, `num_classes` and `in_chans`.
        teacher_model: The teacher; its gradients are switched off.
        *args: As timm's task has them.
        loss: Any loss on logits without parameters; `CMKDLoss()` by default.
        distill_loss_weight: Factor of the distillation loss.
        task_loss_weight: Factor of the criterion.
        **kwargs: As timm's task has them. `loss_type` and `temperature`, which its script always gives,
            belong to the divergence that is replaced and are not read.

    Raises:
        InputError: The loss cannot be used here.
    """

    student_mean: Tensor
    student_std: Tensor

    def __init__(
        self,
        student_model: nn.Module,
        teacher_model: Any,
        *args: Any,
        loss: nn.Module | None = None,
        distill_loss_weight: float | None = None,
        task_loss_weight: float | None = None,
        **kwargs: Any,
    ) -> None:
        loss = check_loss(loss)
        whole = loss.loss if isinstance(loss, TokenLoss) else loss
        if hasattr(whole, "set_epoch"):
            raise InputError(
                f"{type(whole).__name__} changes over the epochs, which timm's loop does not tell: use it "
                "with `cmkd distill`."
            )
        if distill_loss_weight is None:
            distill_loss_weight = 1.0 if task_loss_weight is None else 1.0 - task_loss_weight
            task_loss_weight = check_task_weight(loss, task_loss_weight)
        else:
            task_loss_weight = check_task_weight(loss, task_loss_weight)
        kwargs.update(distill_loss_weight=distill_loss_weight, task_loss_weight=task_loss_weight)
        super().__init__(student_model, teacher_model, *args, **kwargs)
        freeze(self.teacher)
        self.distillation = loss.to(self.device)

    def train(self, mode: bool = True) -> DistillationTask:
        """Set the mode of the student; the teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the loss of a batch and its parts.

        Args:
            input: Images, normalised for the student, `(N, channels, H, W)`.
            target: What the criterion takes: class indices `(N,)`, or one row per image.

        Returns:
            `loss`, `output` (the student's logits), `task_loss` and `kd_loss`, the two before their weights.
        """
        logits = logits_of(self.trainable_module(input), "student")
        task = self.criterion(logits, target)
        with torch.no_grad():
            seen = self.teacher.normalize_input(input, self.student_mean, self.student_std)
            teacher_logits = logits_of(self.teacher(seen), "teacher")
        term = self.distillation(logits, teacher_logits, class_indices(target, logits, self.distillation))
        total = self.task_loss_weight * task + self.distill_loss_weight * term
        return {"loss": total, "output": logits, "task_loss": task, "kd_loss": term}

"""The training objective: the task loss plus a distillation loss."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmkd import losses
from cmkd.errors import InputError
from cmkd.training.processes import Processes


def build_loss(spec: dict[str, Any]) -> nn.Module:
    """Return the distillation loss that a specification names.

    Args:
        spec: `name` (short name or dotted path) and the keyword options of that class.

    Returns:
        The loss.

    Raises:
        InputError: The name is unknown or an option does not exist or has an impossible value.
    """
    options = {key: value for key, value in spec.items() if key != "name"}
    loss_class = losses.resolve(spec["name"])
    try:
        inspect.signature(loss_class).bind(**options)
    except TypeError as error:
        raise InputError(
            f"loss {spec['name']!r}: {error}; see `cmkd distill --loss {spec['name']} --help`."
        ) from None
    return loss_class(**options)


def resolved_loss(spec: dict[str, Any], loss: nn.Module) -> dict[str, Any]:
    """Return the specification with the defaults filled in, as far as the loss knows its options."""
    options = getattr(loss, "options", {})
    accepted = inspect.signature(type(loss)).parameters.keys() - {"reduction"}  # training takes the mean
    return {"name": spec["name"], **{name: options[name] for name in options if name in accepted}, **spec}


class Objective(nn.Module):
    """`task_weight * cross-entropy + fade * distillation`.

    Args:
        distillation: Distillation loss, called as `loss(student_logits, teacher_logits, target)`; None
            trains on labels alone. Its parameters, if it has any, are trained with the student.
        task_weight: Weight of the cross-entropy; by default the attribute `task_weight` of the
            distillation loss (what its paper gives), else 1.
        label_smoothing: Label smoothing of the cross-entropy.
    """

    def __init__(
        self,
        distillation: nn.Module | None = None,
        *,
        task_weight: float | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.distillation = distillation
        default = float(getattr(distillation, "task_weight", 1.0))
        self.task_weight = default if task_weight is None else task_weight
        self.label_smoothing = label_smoothing
        self.reads_teacher = distillation is not None and getattr(distillation, "reads_teacher", True)
        self._sharing: Processes | None = None
        self._has_parts = (
            distillation is not None and "parts" in inspect.signature(distillation.forward).parameters
        )

    def share_batches(self, processes: Processes) -> None:
        """Take every batch from now on for one process's part of it.

        A distillation loss that looks across the batch is then given the whole of it, in each process; its
        attribute `across_batch` says whether it does, and one without that attribute is taken to.
        """
        if processes.count > 1 and getattr(self.distillation, "across_batch", True):
            self._sharing = processes

    def forward(
        self, logits: Tensor, teacher_logits: Tensor | None, target: Tensor, *, fade: float = 1.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and, detached, what it is made of.

        Args:
            logits: Student logits `(N, C)`.
            teacher_logits: Teacher logits `(N, C)`; None if `reads_teacher` is false.
            target: Class indices `(N,)`.
            fade: Factor of the distillation loss, for its warm-up.

        Returns:
            The scalar loss; and a dictionary with `task`, `distillation` and the parts that the
            distillation loss reports (scalars or one value per sample).
        """
        logits = logits.float()
        task = F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)
        if self.distillation is None or teacher_logits is None:
            return self.task_weight * task, {"task": task.detach()}
        if self._sharing is not None:
            logits, teacher_logits, target = map(self._sharing.whole_batch, (logits, teacher_logits, target))
        if self._has_parts:
            reported = self.distillation(logits, teacher_logits, target, parts=True)._asdict()
            distillation = reported.pop("loss")
            if self._sharing is not None:
                own = self._sharing.own_part
                reported = {name: own(value) if value.ndim else value for name, value in reported.items()}
        else:
            reported = {}
            distillation = self.distillation(logits, teacher_logits, target)
        parts = {"task": task.detach(), "distillation": distillation.detach(), **reported}
        return self.task_weight * task + fade * distillation, parts


def check_objective(objective: Objective, num_classes: int, device: torch.device) -> None:
    """Call the distillation loss once on a small made-up batch, so that a wrong one fails before training.

    Args:
        objective: The objective of the run.
        num_classes: Classes of the data.
        device: Device of the run.

    Raises:
        InputError: The loss fails or does not return a finite scalar.
    """
    generator = torch.Generator().manual_seed(0)
    logits, teacher_logits = torch.randn(2, 4, num_classes, generator=generator).to(device)
    target = torch.arange(4, device=device) % num_classes
    name = type(objective.distillation).__name__
    try:
        loss, _ = objective(logits.requires_grad_(), teacher_logits, target)
    except InputError:
        raise
    except Exception as error:  # a user's own class may raise anything
        raise InputError(
            f"loss {name} failed on a trial batch: {type(error).__name__}: {error}. It is called as "
            "loss(student_logits, teacher_logits, target) and has to return a scalar."
        ) from error
    if loss.ndim != 0 or not torch.isfinite(loss):
        returned = loss.item() if loss.ndim == 0 else f"a tensor of shape {tuple(loss.shape)}"
        raise InputError(
            f"loss {name} returned {returned} on a trial batch; it has to return a finite scalar."
        )

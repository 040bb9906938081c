"""The training objective: the task loss plus distillation losses, on logits or on features."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from cmkd.losses.features import FeatureLoss, Outputs
from cmkd.training.processes import Processes


class Objective(nn.Module):
    """`task_weight * cross-entropy + fade * (distillation + weighted sum of added losses)`.

    Args:
        distillation: Distillation loss, called as `loss(student_logits, teacher_logits, target)` or, if it
            is a `FeatureLoss`, as `loss(student, teacher, target, indices)` with the `Outputs` of both; None
            trains on labels alone. Its parameters, if it has any, are trained with the student.
        added: More losses of either kind, with their factors.
        task_weight: Weight of the cross-entropy; by default the attribute `task_weight` of the
            distillation loss (what its paper gives), else 1.
        label_smoothing: Label smoothing of the cross-entropy.
    """

    def __init__(
        self,
        distillation: nn.Module | None = None,
        *,
        added: Sequence[tuple[nn.Module, float]] = (),
        task_weight: float | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.distillation = distillation
        self.added = nn.ModuleList(loss for loss, _ in added)
        self._names = [] if distillation is None else ["distillation"]
        self._factors = [1.0 for _ in self._names] + [factor for _, factor in added]
        for loss in self.added:
            name = type(loss).__name__.removesuffix("Loss")
            again = sum(known.partition("_")[0] == name for known in self._names)
            self._names.append(f"{name}_{again + 1}" if again else name)
        default = float(getattr(distillation, "task_weight", 1.0))
        self.task_weight = default if task_weight is None else task_weight
        self.label_smoothing = label_smoothing
        self.reads_teacher = any(getattr(loss, "reads_teacher", True) for _, loss in self.terms())
        self._sharing: Processes | None = None
        self._has_parts = (
            distillation is not None and "parts" in inspect.signature(distillation.forward).parameters
        )

    def terms(self) -> list[tuple[str, nn.Module]]:
        """Return the distillation losses by the names that they are logged under."""
        first = [] if self.distillation is None else [self.distillation]
        return list(zip(self._names, [*first, *self.added], strict=True))

    @property
    def feature_losses(self) -> list[FeatureLoss]:
        """Those of the losses that compare features."""
        return [loss for _, loss in self.terms() if isinstance(loss, FeatureLoss)]

    def share_batches(self, processes: Processes) -> None:
        """Take every batch from now on for one process's part of it.

        A distillation loss that looks across the batch is then given the whole of it, in each process; its
        attribute `across_batch` says whether it does, and one without that attribute is taken to.
        """
        if processes.count > 1:
            self._sharing = processes

    def set_epoch(self, epoch: float) -> None:
        """Tell the losses that change over the run how many epochs are done, with their fraction."""
        for _, loss in self.terms():
            if hasattr(loss, "set_epoch"):
                loss.set_epoch(epoch)  # type: ignore[operator]

    def forward(
        self,
        student: Tensor | Outputs,
        teacher: Tensor | Outputs | None,
        target: Tensor,
        *,
        fade: float = 1.0,
        indices: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and, detached, what it is made of.

        Args:
            student: Student logits `(N, C)`, with features if a loss compares them.
            teacher: Teacher logits `(N, C)`, likewise; None if `reads_teacher` is false.
            target: Class indices `(N,)`.
            fade: Factor of the distillation losses, for their warm-up.
            indices: Which images of the training data these are, `(N,)`.

        Returns:
            The scalar loss; and a dictionary with `task`, `distillation`, the parts that the distillation
            loss reports (scalars or one value per sample), and the added losses by name.
        """
        batch = _Batch(_outputs(student), None if teacher is None else _outputs(teacher), target, indices)
        task = F.cross_entropy(batch.student.logits, target, label_smoothing=self.label_smoothing)
        parts = {"task": task.detach()}
        # Not a product with 1: where nothing is added to it, loss and detached part are both returned, and
        # torch.compile, which folds the product, makes them one tensor without gradient (PyTorch 2.15). The
        # products below end in a sum, which is a tensor of its own whatever is folded.
        total = task if self.task_weight == 1 else self.task_weight * task
        if batch.teacher is not None:
            whole = self._of_all(batch, [loss for _, loss in self.terms()])
            for (name, loss), factor in zip(self.terms(), self._factors, strict=True):
                value, reported = self._value(loss, batch, whole)
                value = factor * value
                parts = {**parts, name: value.detach(), **reported}
                total = total + fade * value
        return total, parts

    def term(
        self,
        loss: nn.Module,
        student: Tensor | Outputs,
        teacher: Tensor | Outputs,
        target: Tensor,
        indices: Tensor | None = None,
    ) -> Tensor:
        """Return what one of the distillation losses says, without its factor.

        Args:
            loss: One of `terms`.
            student: As for the call of the objective, like the others.
            teacher: Likewise.
            target: Likewise.
            indices: Likewise.

        Returns:
            What the loss returns, which should be a scalar.
        """
        batch = _Batch(_outputs(student), _outputs(teacher), target, indices)
        return self._value(loss, batch, self._of_all(batch, [loss]))[0]

    def _value(
        self, loss: nn.Module, batch: _Batch, whole: _Batch | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a term, and the parts that it reports."""
        of_all = whole is not None and _across_batch(loss)
        student, teacher, target, indices = whole if whole is not None and of_all else batch
        assert teacher is not None, "the caller has looked"
        if isinstance(loss, FeatureLoss):
            return loss(student, teacher, target, indices), {}
        if loss is not self.distillation or not self._has_parts:
            return loss(student.logits, teacher.logits, target), {}
        said = loss(student.logits, teacher.logits, target, parts=True)
        # _asdict, and _fields of a tuple, would break the graph on torch 2.6
        reported = dict(zip(type(said)._fields, said, strict=True))
        value = reported.pop("loss")
        if of_all and self._sharing is not None:
            own = self._sharing.own_part
            reported = {name: own(part) if part.ndim else part for name, part in reported.items()}
        return value, reported

    def _of_all(self, batch: _Batch, losses: Sequence[nn.Module]) -> _Batch | None:
        """Return what these losses read of the batch of all processes, None if that is their own part."""
        losses = [loss for loss in losses if _across_batch(loss)]
        if self._sharing is None or not losses:
            return None
        assert batch.teacher is not None, "a loss is called only with one"
        of_student = _layers(losses, "student_layers")
        of_teacher = _layers(losses, "teacher_layers")
        parts = [batch.student.logits, *(batch.student.features[name] for name in of_student)]
        parts += [batch.teacher.logits, *(batch.teacher.features[name] for name in of_teacher)]
        parts += [batch.target] if batch.indices is None else [batch.target, batch.indices]
        whole = iter(self._sharing.whole_batch(*parts))
        student = Outputs(next(whole), {name: next(whole) for name in of_student})
        teacher = Outputs(next(whole), {name: next(whole) for name in of_teacher})
        return _Batch(student, teacher, next(whole), next(whole, None))


def _across_batch(loss: nn.Module) -> bool:
    return bool(getattr(loss, "across_batch", True))


def _layers(losses: Sequence[nn.Module], attribute: str) -> list[str]:
    """Return the layers that any of the losses reads, each once."""
    return list(dict.fromkeys(name for loss in losses for name in getattr(loss, attribute, None) or ()))


class _Batch(NamedTuple):
    student: Outputs
    teacher: Outputs | None
    target: Tensor
    indices: Tensor | None


def _outputs(given: Tensor | Outputs) -> Outputs:
    """Return logits in float32, with the features as they are."""
    logits, features = given if isinstance(given, Outputs) else (given, {})
    return Outputs(logits.float(), features)

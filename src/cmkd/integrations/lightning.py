"""Lightning: a callback that lets any LightningModule learn from a teacher as well."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cmkd.errors import InputError
from cmkd.integrations.common import (
    check_loss,
    check_task_weight,
    class_indices,
    freeze,
    logits_of,
    missing,
    tell_epoch,
)

# Two packages hold the same code; classes of one are foreign to the trainer of the other.
_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def _callback_class() -> Any:
    """Return the `Callback` of the package that is already imported, else of one that is installed."""
    imported = [name for name in _PACKAGES if sys.modules.get(name)]
    installed = [name for name in _PACKAGES if importlib.util.find_spec(name.partition(".")[0])]
    if not imported and not installed:
        raise missing("Lightning", "lightning")
    return importlib.import_module([*imported, *installed][0]).Callback


_Callback: Any = _callback_class()


class DistillationCallback(_Callback):
    """Lets a LightningModule learn from a teacher: `Trainer(callbacks=[DistillationCallback(teacher)])`.

    While it trains, the loss that `training_step` returns becomes
    `task_weight * (that loss) + loss(student_logits, teacher_logits, target)`. The student's logits are what
    the module returns when `training_step` calls `self(...)`, once; the teacher is called with the same
    arguments. Validation and test are not touched.

    The teacher belongs to the callback, not to the module: it is in no checkpoint, no hyper-parameter and no
    optimiser. It stays in eval mode without gradients, and is brought, in place, to the device and the
    precision of the module when training starts. Logged are `distillation/task` and `distillation/loss`, the
    two terms before the weight.

    A loss that looks across the batch (`loss.across_batch`) sees the batch of its own process, and one of
    those that `accumulate_grad_batches` adds up.

    Args:
        teacher: The trained network.
        loss: Any loss on logits without parameters; `CMKDLoss()` by default.
        task_weight: Weight of the module's own loss; by default `loss.task_weight`.
        student: Name of the submodule that returns the logits, for example `"model"`, where `training_step`
            calls it and not `self(...)`.
        target: Finds the class indices, int64 `(N,)` or `(N, *)`, in a batch, for losses that read them. By
            default the second of two things in a batch, or what it holds as `labels`, `label`, `targets` or
            `target`, if that is a tensor of such a shape.

    Raises:
        InputError: Teacher or loss cannot be used. When training starts or in its first step: the module
            optimises by hand, or holds the teacher, or the network is not called, or more than once.
    """

    def __init__(
        self,
        teacher: nn.Module,
        loss: nn.Module | None = None,
        *,
        task_weight: float | None = None,
        student: str | None = None,
        target: Callable[[Any], Tensor | None] | None = None,
    ) -> None:
        super().__init__()
        self.teacher = freeze(teacher)
        self.loss = check_loss(loss)
        self.task_weight = check_task_weight(self.loss, task_weight)
        self.student = student
        self.find_target = _labels if target is None else target
        self._replaced: dict[str, Any] | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Bring the teacher to the module's device and precision, and step in between it and the trainer."""
        if not pl_module.automatic_optimization:
            raise InputError(
                f"{type(pl_module).__name__} optimises by hand, so the callback cannot add to its loss: call "
                "the distillation loss in its training_step."
            )
        if any(module is self.teacher for module in pl_module.modules()):
            raise InputError(
                f"{type(pl_module).__name__} holds the teacher, and would train and save it: give it to "
                "the callback alone."
            )
        if isinstance(getattr(pl_module.training_step, "distilled_by", None), DistillationCallback):
            raise InputError("there are two distillation callbacks: use one, with the mean of the teachers.")
        self.teacher.to(pl_module.device)
        self.teacher = trainer.precision_plugin.convert_module(self.teacher)
        self.loss.to(pl_module.device)
        own = pl_module.training_step
        network = self._network(pl_module)

        @functools.wraps(own)
        def training_step(*args: Any, **kwargs: Any) -> Any:
            done = trainer.fit_loop.batch_idx / trainer.num_training_batches
            tell_epoch(self.loss, trainer.current_epoch + done)
            calls: list[tuple[Any, Any, Any]] = []
            handle = network.register_forward_hook(
                lambda _, given, named, output: calls.append((given, named, output)), with_kwargs=True
            )
            try:
                returned = own(*args, **kwargs)
            finally:
                handle.remove()
            if returned is None:  # Lightning's way to skip a batch
                return None
            batch = args[0] if args else kwargs["batch"]
            return self._add(pl_module, returned, self._only(calls, pl_module), batch)

        # Lightning looks below one decorator to see whether the step takes the number of the batch: it has to
        # find what it would have found in the step itself.
        training_step.__wrapped__ = getattr(own, "__wrapped__", own)
        training_step.distilled_by = self  # type: ignore[attr-defined]
        self._replaced = {key: kept for key, kept in vars(pl_module).items() if key == "training_step"}
        pl_module.training_step = training_step

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Leave the module as it was."""
        self._release(pl_module)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave the module as it was."""
        self._release(pl_module)

    def _release(self, pl_module: Any) -> None:
        if self._replaced is not None:
            del pl_module.training_step
            vars(pl_module).update(self._replaced)
            self._replaced = None

    def _network(self, pl_module: Any) -> nn.Module:
        if self.student is None:
            return pl_module
        try:
            return pl_module.get_submodule(self.student)
        except AttributeError:
            raise InputError(
                f"{type(pl_module).__name__} has no submodule {self.student!r}; it has: "
                f"{_children(pl_module)}."
            ) from None

    def _only(self, calls: list[tuple[Any, Any, Any]], pl_module: Any) -> tuple[Any, Any, Any]:
        if len(calls) == 1:
            return calls[0]
        called = "self(...)" if self.student is None else f"self.{self.student}(...)"
        raise InputError(
            f"training_step of {type(pl_module).__name__} calls {called} {len(calls)} times, where one call "
            "is needed: name the network that returns the logits, "
            f"DistillationCallback(teacher, student=NAME), one of: {_children(pl_module)}."
        )

    def _add(self, pl_module: Any, returned: Any, call: tuple[Any, Any, Any], batch: Any) -> Any:
        """Return what `training_step` returned, with the loss of both."""
        given, named, output = call
        task = returned["loss"] if isinstance(returned, Mapping) else returned
        logits = logits_of(output, "student")
        with torch.no_grad():
            teacher_logits = logits_of(self.teacher(*given, **named), "teacher")
        target = self.find_target(batch)
        term = self.loss(logits, teacher_logits, class_indices(target, logits, self.loss))
        logged = {"distillation/task": task.detach(), "distillation/loss": term.detach()}
        pl_module.log_dict(logged, batch_size=len(logits))
        total = self.task_weight * task + term
        return {**returned, "loss": total} if isinstance(returned, Mapping) else total


def _labels(batch: Any) -> Any:
    if isinstance(batch, Mapping):
        names = ("labels", "label", "targets", "target")
        return next((batch[name] for name in names if name in batch), None)
    return batch[1] if isinstance(batch, (tuple, list)) and len(batch) == 2 else None


def _children(module: nn.Module) -> str:
    return ", ".join(repr(name) for name, _ in module.named_children()) or "nothing"

"""What every distillation method is, on logits or on features: a module that knows its options."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn


class DistillationMethod(nn.Module):
    """Base of the losses on logits and of those on features.

    A subclass stores each argument of its `__init__` under the argument's own name, which puts it into
    `options`. Parameters (`nn.Parameter`) are trained with the student and saved with the state of the
    training, and are no part of the student. A loss that changes over the run has a method
    `set_epoch(self, epoch: float) -> None`, which is called before every step with the epochs done so far:
    0.0 before the first step, 2.5 in the middle of the third epoch. It depends on the step alone, so a loss
    that derives all it needs from it is the same after a resume.
    """

    #: Whether training has to run the teacher at all.
    reads_teacher: bool = True
    option_names: tuple[str, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        own = [item.name for item in inspect.signature(cls).parameters.values() if item.kind in named]
        inherited = [name for base in cls.__mro__[1:] for name in getattr(base, "option_names", ())]
        cls.option_names = tuple(dict.fromkeys([*own, *inherited]))

    @property
    def task_weight(self) -> float:
        """Weight of the cross-entropy beside this loss in the paper's objective."""
        return 1.0

    @property
    def across_batch(self) -> bool:
        """Whether the loss of a sample depends on the other samples of its batch.

        Training in several processes then gathers its input first and calls the loss with the whole batch;
        the mean of what the processes compute for themselves would be another loss. It is assumed of a loss
        that is none of ours.
        """
        return False

    @property
    def reads_target(self) -> bool:
        """Whether the loss needs the class of every sample, and raises an error without it."""
        return False

    @property
    def options(self) -> dict[str, Any]:
        """The hyper-parameters, by name: the arguments of this class and its parents, where they are kept."""
        return {name: getattr(self, name) for name in self.option_names if hasattr(self, name)}

    def extra_repr(self) -> str:
        """Show the hyper-parameters where the module is printed."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())

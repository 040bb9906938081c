"""What the integrations share: the checks of teacher and loss, and finding logits and labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cmkd.errors import InputError
from cmkd.losses import CMKDLoss, TokenLoss
from cmkd.losses.features import FeatureLoss


def missing(library: str, extra: str) -> InputError:
    """Return the error for a library that is not installed, or too old, with the command that installs it."""
    return InputError(f'{library} is not installed or too old; run: pip install "cmkd[{extra}]"')


def check_loss(loss: nn.Module | None) -> nn.Module:
    """Return the distillation loss to use.

    Args:
        loss: Called as `loss(student_logits, teacher_logits, target)`, returning a scalar; None for
            `CMKDLoss()`.

    Returns:
        The loss.

    Raises:
        InputError: It is no module, compares features, has something to learn itself, or does not return a
            mean.
    """
    if loss is None:
        return CMKDLoss()
    name = type(loss).__name__
    if not isinstance(loss, nn.Module):
        raise InputError(f"loss is {loss!r}: pass an instance of a loss, such as cmkd.losses.KDLoss().")
    if isinstance(loss, FeatureLoss):
        raise InputError(
            f"{name} compares features, and here only logits are at hand: use it with `cmkd distill`, or in "
            "a loop of your own as docs/features.md shows."
        )
    if any(parameter.requires_grad for parameter in loss.parameters()):
        raise InputError(
            f"{name} has parameters to learn, which the optimiser here knows nothing of: use it with "
            "`cmkd distill`, or in a loop of your own, and give the optimiser loss.parameters()."
        )
    if getattr(loss, "reduction", "mean") != "mean":
        raise InputError(f"{name} has reduction {loss.reduction!r}: the loops here need 'mean'.")
    return loss


def check_task_weight(loss: nn.Module, task_weight: float | None) -> float:
    """Return the weight of the task's own loss: the one given, or what the paper of the method says."""
    return float(getattr(loss, "task_weight", 1.0)) if task_weight is None else float(task_weight)


def freeze(teacher: nn.Module) -> nn.Module:
    """Put a teacher into eval mode and free it of gradients, in place."""
    if not isinstance(teacher, nn.Module):
        raise InputError(f"teacher is a {type(teacher).__name__}: pass the network itself, an nn.Module.")
    return teacher.requires_grad_(False).eval()


def logits_of(output: Any, who: str) -> Tensor:
    """Find the logits in what a network returned: a tensor, `output.logits` or `output["logits"]`."""
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    if not isinstance(found, Tensor):
        raise InputError(
            f"the {who} returned a {type(output).__name__} in which no logits are found: it has to return a "
            "tensor, or an object or a dictionary with `logits`; wrap it in a module that does."
        )
    return found


def tell_epoch(loss: nn.Module, epoch: float) -> None:
    """Tell a loss that changes over the run how many epochs are done, as `DistillationMethod` has it."""
    set_epoch: Any = getattr(loss, "set_epoch", None)
    if set_epoch is not None:
        set_epoch(epoch)


def class_indices(target: Any, logits: Tensor, loss: nn.Module) -> Tensor | None:
    """Return a target if it is one class index for each of the logits' rows; soft labels, say, give None.

    Raises:
        InputError: The loss reads class indices, and the target is something else.
    """
    classes_last = getattr(loss, "classes_last", False)
    shape = tuple(logits.shape[:-1]) if classes_last else (len(logits), *logits.shape[2:])
    if isinstance(target, Tensor) and target.dtype == torch.int64 and target.shape == shape:
        return target
    if getattr(loss, "reads_target", False):
        name = type(loss.loss if isinstance(loss, TokenLoss) else loss).__name__
        found = f"the target is a {type(target).__name__}"
        if target is None:
            found = "no target is found in the batch"
        elif isinstance(target, Tensor):
            found = f"the target is {target.dtype} {tuple(target.shape)}"
        raise InputError(
            f"{name} reads the labels, and {found}: it needs class indices, torch.int64 {shape}. Labels that "
            "are mixed or smoothed (mixup, CutMix) are none: switch that off, or take a loss that does "
            "without labels."
        )
    return None

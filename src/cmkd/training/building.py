"""Losses and the objective made from their specifications, and tried before training."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cmkd import losses
from cmkd.errors import InputError
from cmkd.losses.base import check_number
from cmkd.losses.features import FeatureLoss, Outputs
from cmkd.training.config import DistillConfig
from cmkd.training.objective import Objective

_ON_LOGITS = "student_logits, teacher_logits, target"


def build_loss(spec: dict[str, Any]) -> nn.Module:
    """Return the distillation loss that a specification names.

    Args:
        spec: `name` (short name or dotted path) and the keyword options of that class.

    Returns:
        The loss.

    Raises:
        InputError: The name is unknown, an option does not exist or has an impossible value, or the class
            cannot be made for another reason.
    """
    options = {key: value for key, value in spec.items() if key != "name"}
    loss_class = losses.resolve(spec["name"])
    try:
        inspect.signature(loss_class).bind(**options)
    except TypeError as error:
        raise InputError(
            f"loss {spec['name']!r}: {error}; see `cmkd distill --loss {spec['name']} --help`."
        ) from None
    with named_if_it_fails(loss_class, f"with the options {options}"):
        loss = loss_class(**options)
    if (reduction := getattr(loss, "reduction", "mean")) in ("sum", "none"):
        raise InputError(
            f"loss {spec['name']!r} has the reduction {reduction!r}; training takes the mean, which does not "
            "depend on how many processes share a batch: leave it out."
        )
    return loss


@contextlib.contextmanager
def named_if_it_fails(loss: type, when: str, remedy: str = "") -> Iterator[None]:
    """Name the class of a loss where it raises: a user's own may raise anything.

    Args:
        loss: The class.
        when: What it was about to do.
        remedy: A sentence on what it should have done.

    Raises:
        InputError: Instead of any other exception of the context.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        said = f"loss {loss.__name__} failed {when}: {type(error).__name__}: {error}"
        raise InputError(f"{said}. {remedy}" if remedy else said) from error


def resolved_loss(spec: dict[str, Any], loss: nn.Module) -> dict[str, Any]:
    """Return the specification with the defaults filled in, as far as the loss knows its options."""
    options = getattr(loss, "options", {})
    accepted = inspect.signature(type(loss)).parameters.keys() - {"reduction"}  # training takes the mean
    return {"name": spec["name"], **{name: options[name] for name in options if name in accepted}, **spec}


def build_added(spec: dict[str, Any]) -> tuple[nn.Module, float]:
    """Return a loss that is added to another one, and its factor.

    Args:
        spec: As for `build_loss`. A loss that has no option `weight` may be given one all the same: it is
            the factor, which is 1 otherwise.

    Raises:
        InputError: As `build_loss`; or the factor is negative or not finite.
    """
    if "weight" not in spec or "weight" in inspect.signature(losses.resolve(spec["name"])).parameters:
        return build_loss(spec), 1.0
    check_number(f"weight of {spec['name']}", spec["weight"])
    return build_loss({key: value for key, value in spec.items() if key != "weight"}), spec["weight"]


def build_objective(config: DistillConfig) -> tuple[DistillConfig, Objective]:
    """Return a run's options, with the defaults of its losses filled in, and its objective.

    Args:
        config: The run's options.

    Raises:
        InputError: As `build_loss` and `build_added`.
    """
    loss, added = build_loss(config.loss), [build_added(spec) for spec in config.with_]
    config = replace(
        config,
        loss=resolved_loss(config.loss, loss),
        with_=[
            {"weight": factor, **resolved_loss(spec, each)}
            for spec, (each, factor) in zip(config.with_, added, strict=True)
        ],
    )
    return config, Objective(
        loss, added=added, task_weight=config.task_weight, label_smoothing=config.label_smoothing
    )


def check_objective(
    objective: Objective,
    student: Tensor | Outputs,
    teacher: Tensor | Outputs,
    target: Tensor,
    indices: Tensor | None = None,
) -> None:
    """Call the distillation losses once on a small batch, so that a wrong one fails before training.

    Args:
        objective: The objective of the run.
        student: What the student made of it, or made-up logits `(N, C)`.
        teacher: What the teacher made of it, likewise.
        target: Its classes `(N,)`.
        indices: Which images they are, if a loss wants to know.

    Raises:
        InputError: A loss fails or does not return a finite scalar.
    """
    objective.eval()  # nothing is to be remembered of it
    for _, loss in objective.terms():
        name = type(loss).__name__
        called = "student, teacher, target, indices" if isinstance(loss, FeatureLoss) else _ON_LOGITS
        remedy = f"It is called as loss({called}) and has to return a scalar."
        with named_if_it_fails(type(loss), "on a trial batch", remedy):
            value = objective.term(loss, student, teacher, target, indices)
        if value.ndim != 0 or not torch.isfinite(value):
            returned = value.item() if value.ndim == 0 else f"a tensor of shape {tuple(value.shape)}"
            raise InputError(
                f"loss {name} returned {returned} on a trial batch; it has to return a finite scalar."
            )
    objective.train()


def made_up_batch(num_classes: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits of a student and a teacher and classes for `check_objective`, the same every time."""
    generator = torch.Generator().manual_seed(0)
    logits, teacher_logits = torch.randn(2, 4, num_classes, generator=generator).to(device)
    return logits.requires_grad_(), teacher_logits, torch.arange(4, device=device) % num_classes

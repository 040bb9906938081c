"""The optimiser, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from cmkd.training.config import RunConfig


def build_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """Return the optimiser of a run over every parameter of `model` that is trained."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fused = all(map(_can_be_fused, parameters)) or None  # None: PyTorch's own choice
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters,
            lr=config.lr,
            betas=(config.momentum, 0.999),
            weight_decay=config.weight_decay,
            fused=fused,
        )
    return torch.optim.SGD(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
        weight_decay=config.weight_decay,
        fused=fused,
    )


def _can_be_fused(parameter: nn.Parameter) -> bool:
    """Whether one kernel can update a parameter with all others.

    The CPU's goes through parameter, gradient and momentum as they lie in memory. They lie alike where the
    parameter is dense: autograd then gives the gradient the parameter's own strides.
    """
    dense = parameter.is_contiguous() or (
        parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last)
    )
    whole = not hasattr(parameter, "placements")  # a DTensor has no such kernel
    return whole and dense and parameter.is_floating_point() and parameter.device.type in ("cpu", "cuda")


def learning_rate(step: int, steps_per_epoch: int, config: RunConfig) -> float:
    """Return the learning rate of a step.

    A pure function rather than a scheduler object: nothing to save, nothing to restore.

    Args:
        step: Optimiser steps done so far, 0 at the first.
        steps_per_epoch: Steps in an epoch.
        config: The run's options.

    Returns:
        The learning rate.
    """
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup_steps:
        return config.lr * (step + 1) / warmup_steps
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "multistep":
        milestones = config.milestones
        if milestones is None:  # 150, 180, 210 of the literature's 240 epochs
            milestones = [round(config.epochs * share) for share in (0.625, 0.75, 0.875)]
        passed = sum(step >= milestone * steps_per_epoch for milestone in milestones)
        return config.lr * config.decay**passed
    total = config.epochs * steps_per_epoch
    progress = (step - warmup_steps) / max(total - warmup_steps, 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

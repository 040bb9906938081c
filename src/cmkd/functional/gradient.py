"""The gradient that a loss has computed in its forward pass, on its way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cmkd.functional.tracing import is_batch, is_traced


def take_gradient(ctx: Any, upstream: Tensor, *, per_sample: bool, again: Callable[[], Tensor]) -> Tensor:
    """Multiply the gradient that is kept in `ctx.slope` by what comes from above, and give it away.

    It is not copied, and whoever gets it may change it in place: so it is not kept, and a second backward
    pass through the same graph has it computed again.

    Args:
        ctx: Context of the autograd function; `slope`, (N, C, *), may be None.
        upstream: Gradient of the loss, a scalar, or (N, *) if `per_sample`.
        per_sample: Whether the loss is one per sample.
        again: Computes the slope.
    """
    slope = again() if ctx.slope is None else ctx.slope
    factor = upstream.unsqueeze(1) if per_sample else upstream
    if is_traced() or is_batch(upstream):
        ctx.slope = slope
        return slope * factor
    ctx.slope = None
    # In `(task_loss + loss).backward()` it is 1, which costs nothing to look at on CPU.
    if not per_sample and upstream.device.type == "cpu" and float(upstream) == 1:
        return slope
    return slope.mul_(factor)


def backward(
    ctx: Any,
    upstream: Tensor,
    student: Tensor,
    *,
    again: Callable[[], Tensor],
    define: Callable[[], Tensor],
) -> Tensor:
    """Return the gradient of a loss with respect to the student.

    Args:
        ctx: Context of the autograd function, with `slope` and `per_sample`, see `take_gradient`.
        upstream: Gradient of the loss.
        student: Logits, (N, C, *).
        again: Computes the slope.
        define: Computes the loss per sample, (N, *), in differentiable operations.
    """
    if not torch.is_grad_enabled():
        return take_gradient(ctx, upstream, per_sample=ctx.per_sample, again=again)
    # Somebody will differentiate this gradient: the one that is kept does not know its own slope.
    with torch.enable_grad():
        losses = define()
        loss = losses if ctx.per_sample else losses.sum()
        return torch.autograd.grad(loss, student, upstream, create_graph=True)[0]

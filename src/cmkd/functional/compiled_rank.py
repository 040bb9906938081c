"""Ranks by the C kernels, with the derivatives of the definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cmkd.functional.tracing import is_batch, is_traced
from cmkd.kernels import native


def compiled_exact_rank(x: Tensor, dim: int, mask: Tensor | None) -> Tensor:
    """Compute `cmkd.functional.exact_rank` of a tensor that `native.usable` accepts.

    Args:
        x: Tensor of any shape.
        dim: The dimension that holds one row.
        mask: bool, of the shape of `x`, or None.
    """
    rank = native.exact_rank(_around(x, dim), None if mask is None else _around(mask, dim))
    return rank.reshape(x.shape)


def compiled_soft_rank(
    x: Tensor,
    dim: int,
    options: native.RankOptions,
    mask: Tensor | None,
    define: Callable[[Tensor], Tensor],
) -> Tensor:
    """Compute `cmkd.functional.soft_rank` of a tensor that `native.usable` accepts.

    Args:
        x: Tensor of any shape.
        dim: The dimension that holds one row.
        options: Which rank.
        mask: bool, of the shape of `x`, or None.
        define: The same in differentiable operations, for derivatives of the gradient.
    """
    return _CompiledSoftRank.apply(x, dim, options, mask, define)


class _CompiledSoftRank(torch.autograd.Function):
    """Keeps nothing but its input: the ranks are computed again on the way back, which is cheap."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dim: int,
        options: native.RankOptions,
        mask: Tensor | None,
        define: Callable[[Tensor], Tensor],
    ) -> Tensor:
        ctx.save_for_backward(x, mask)
        ctx.dim, ctx.options, ctx.define = dim, options, define
        flags = None if mask is None else _around(mask, dim)
        return native.soft_rank(_around(x, dim), options, flags).reshape(x.shape)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, mask = ctx.saved_tensors
        dim, options, define = ctx.dim, ctx.options, ctx.define
        slope = slope.float()
        if torch.is_grad_enabled() or is_traced() or is_batch(slope) or not native.usable(slope):
            # Somebody will differentiate this gradient, or hands in what the C kernels cannot read.
            with torch.enable_grad():
                (grad,) = torch.autograd.grad(define(x), x, slope, create_graph=True)
        else:
            flags = None if mask is None else _around(mask, dim)
            grad = native.soft_rank_backward(_around(x, dim), _around(slope, dim), options, flags)
            grad = grad.reshape(x.shape)
        return grad, None, None, None, None


def _around(x: Tensor, dim: int) -> Tensor:
    """View a tensor as (before, C, after), with the rows along dimension 1."""
    if not x.dim():
        return x.reshape(1, 1, 1)
    if not -x.dim() <= dim < x.dim():
        raise IndexError(f"dim is {dim}, but the tensor has {x.dim()} dimensions.")
    dim %= x.dim()
    return x.reshape(x.shape[:dim].numel(), x.shape[dim], x.shape[dim + 1 :].numel())

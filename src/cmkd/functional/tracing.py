"""Whether a function runs on numbers, or is being recorded by something that wants its operations."""

from __future__ import annotations

import torch
from torch import Tensor


def is_traced() -> bool:
    """Return True under `torch.compile`, `torch.export`, `torch.jit.trace` and in transforms of `torch.func`.

    Values cannot be looked at there, and only tensor operations can be recorded.
    """
    # Neither is exported by its module, and both are what torch itself asks here.
    traced = torch._C._get_tracing_state() is not None
    transformed = torch._C._are_functorch_transforms_active()
    if torch.compiler.is_compiling() or traced or transformed:
        return True
    # Whoever dispatches operations himself, make_fx for one, wants to see them.
    return torch._C._len_torch_dispatch_stack() > 0


def is_batch(x: Tensor) -> bool:
    """Whether a tensor stands for a batch of them: upstream gradients under `is_grads_batched`."""
    return torch._C._functorch.is_legacy_batchedtensor(x)

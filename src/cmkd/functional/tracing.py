"""Whether a function runs on numbers, or is being recorded by something that wants its operations."""

from __future__ import annotations

import torch


def is_traced() -> bool:
    """Return True under `torch.compile`, `torch.export`, `torch.jit.trace` and in transforms of `torch.func`.

    Values cannot be looked at there, and only tensor operations can be recorded.
    """
    # Neither is exported by its module, and both are what torch itself asks here.
    traced = torch._C._get_tracing_state() is not None
    return torch.compiler.is_compiling() or traced or torch._C._are_functorch_transforms_active()

"""The precision in which everything here is computed: float32 at least, whatever autocast is active."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which autocast leaves tensors on the device of `x` alone."""
    device_type = x.device.type
    # The only device without autocast. Asking torch for it would break the graph of its older compilers.
    if device_type != "meta" and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def float_dtype(x: Tensor) -> torch.dtype:
    """Return float64 for float64 and float32 for all else: squared ranks overflow half precision."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def as_float(x: Tensor) -> Tensor:
    """Return float64 as it is and all else in float32."""
    return x.to(float_dtype(x))


def as_double(x: Tensor) -> Tensor:
    """Return `x` in float64, or in float32 on MPS, which has no float64."""
    return as_float(x) if x.device.type == "mps" else x.double()

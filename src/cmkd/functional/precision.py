"""The precision in which everything here is computed: float32 at least, whatever autocast is active."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which autocast leaves tensors on the device of `x` alone."""
    device_type = x.device.type
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def as_float(x: Tensor) -> Tensor:
    """Return float64 as it is and all else in float32: sums of squared ranks overflow half precision."""
    return x if x.dtype in (torch.float32, torch.float64) else x.to(torch.float32)

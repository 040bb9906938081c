"""What a network costs on paper: parameters and multiplications."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from cmkd.models.calls import evaluating
from cmkd.models.families import available, find


@dataclass(frozen=True)
class Size:
    """Size of one of the package's own networks.

    Attributes:
        name: Name of the network.
        parameters: Learnable numbers.
        macs: Multiply-accumulate operations for one image.
        image_size: Side of that image in pixels.
    """

    name: str
    parameters: int
    macs: int
    image_size: int


def count_parameters(model: nn.Module) -> int:
    """Return the number of learnable numbers in a network (buffers such as running means do not count)."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, image_size: int) -> int:
    """Count the multiply-accumulate operations of one image, as papers do who call them FLOPs.

    They are half of what torch's `FlopCounterMode` counts: convolutions, matrix products and attention.
    Batch norm, activations, pooling and additions are left out, as usual.

    Args:
        model: Any network that takes `(1, 3, image_size, image_size)`, on any device; on the "meta" device
            nothing is computed. It is left in the mode in which it is.
        image_size: Side of the image in pixels.

    Returns:
        Their number.

    Example:
        >>> from cmkd.models import build
        >>> count_macs(build("resnet8", 100), 32)
        12507392
    """
    from torch.utils.flop_counter import FlopCounterMode  # slow to import

    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    counter = FlopCounterMode(display=False)
    with evaluating(model), torch.no_grad(), _plain_attention(), counter:
        model(torch.zeros(1, 3, image_size, image_size, device=device))
    return counter.get_total_flops() // 2


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Let attention be calculated by matrix products: of its fused forms not all are counted."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one kernel for a whole `nn.MultiheadAttention`
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def sizes(*, num_classes: int = 100, image_size: int = 32) -> list[Size]:
    """Return the sizes of all the package's own networks without allocating one.

    Args:
        num_classes: Length of a row of logits.
        image_size: Side of the image in pixels.

    Returns:
        One entry for each name in `available()`.
    """
    found = []
    for name in available():
        factory = find(name)
        assert factory is not None
        with torch.device("meta"):
            network = factory(num_classes)
        found.append(Size(name, count_parameters(network), count_macs(network, image_size), image_size))
    return found

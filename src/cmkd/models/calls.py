"""Which module of a network calls which, and what comes out, written down while one image is run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cmkd.errors import InputError


@dataclass(eq=False)
class Call:
    """One call of one module.

    Attributes:
        name: Dotted name of the module in the network, empty for the network itself.
        module: The module.
        calls: The calls that were made within, in order.
        shape: Shape of the output, None if that is no tensor.
        values: Copies of the input and of the output, flattened, where they may be an embedding.
    """

    name: str
    module: nn.Module
    calls: list[Call] = field(default_factory=list)
    shape: tuple[int, ...] | None = None
    values: tuple[Tensor | None, Tensor | None] = (None, None)

    @property
    def side(self) -> int | None:
        """Pixels along a side of the output, `(N, C, H, H)` or `(N, H, H, C)`; None for all other outputs."""
        if self.shape is None or len(self.shape) != 4:
            return None
        _, first, second, third = self.shape
        side = second if second == third else first if first == second else 1
        return side if side > 1 else None  # a single pixel is a vector: pooled, or squeezed for a gate


@dataclass(eq=False)
class Record:
    """All calls of one run: as a tree (`root`), and in the order in which they ended (`ended`)."""

    root: Call
    ended: list[Call]

    def is_called_once(self, call: Call) -> bool:
        """Whether a hook on the module meets this output only; a shared ReLU has several."""
        return sum(other.module is call.module for other in self.ended) == 1

    def within(self) -> Iterator[Call]:
        """Every call but the network's own."""
        return (call for call in self.ended if call is not self.root)


def record_calls(network: nn.Module, image_size: int) -> Record:
    """Run one image of noise through a network, in eval mode, and write down the calls of its modules.

    The network is left as it was: the mode of each module, the buffers, the global random numbers.

    Args:
        network: From images `(N, 3, H, W)` to logits `(N, classes)`.
        image_size: Side of the image in pixels.

    Returns:
        The calls.

    Raises:
        InputError: The network fails on such an image.
    """
    stack: list[Call] = []
    ended: list[Call] = []
    lengths = {module.in_features for module in network.modules() if isinstance(module, nn.Linear)}
    lengths |= {module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d)}

    def copy(value: Any) -> Tensor | None:
        if not isinstance(value, Tensor) or value.ndim < 2 or value[0].numel() not in lengths:
            return None
        return value.flatten(1).clone()  # what follows may overwrite it in place

    def begin(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        call = Call(name, module, values=(copy(args[0]) if args else None, None))
        if stack:
            stack[-1].calls.append(call)
        stack.append(call)

    def end(output: Any) -> None:
        call = stack.pop()
        call.shape = tuple(output.shape) if isinstance(output, Tensor) else None
        call.values = (call.values[0], copy(output))
        ended.append(call)

    handles = []
    for name, module in network.named_modules():
        handles.append(module.register_forward_pre_hook(lambda m, args, name=name: begin(name, m, args)))
        handles.append(module.register_forward_hook(lambda m, args, output: end(output)))
    try:
        with torch.no_grad(), evaluating(network):
            network(noise(network, image_size))
    except Exception as error:  # somebody's own network may raise anything
        raise InputError(
            f"the network failed on an image of {image_size} x {image_size}: {type(error).__name__}: {error}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return Record(ended[-1], ended)


def noise(network: nn.Module, image_size: int) -> Tensor:
    """Return one image of noise, the same every time, where and as precise as the weights of a network are.

    Noise and not zeros, so that two different embeddings do not look alike.
    """
    image = torch.rand(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    like = next((parameter for parameter in network.parameters()), image)
    return image.to(like.device, like.dtype)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into eval mode within a `with` block, and each of its modules back into its own mode."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode

"""Trying a network before anything depends on it."""

from __future__ import annotations

import torch
from torch import nn

from cmkd.errors import InputError
from cmkd.models.calls import evaluating


def check_logits(
    network: nn.Module, who: str, *, num_classes: int, image_size: int, remedy: str = ""
) -> None:
    """Run a network once on a blank image and look at what it returns.

    Args:
        network: From images `(N, 3, H, W)` to logits; left in eval mode.
        who: How to name it in the message, for example `"teacher resnet20"`.
        num_classes: Length that a row of logits has to have.
        image_size: Side of the image in pixels.
        remedy: A sentence on what may help if it fails on the image.

    Raises:
        InputError: It fails, or does not return `(1, num_classes)`.
    """
    network.eval()
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    with torch.no_grad():
        try:
            output = network(torch.zeros(1, 3, image_size, image_size, device=device))
        except Exception as error:  # somebody's own network may raise anything
            raise InputError(
                f"{who} failed on an image of {image_size} x {image_size}: {type(error).__name__}: {error}"
                + (f". {remedy}" if remedy else "")
            ) from error
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise InputError(f"{who} has to return logits of shape (N, classes); it returned {shape}.")
    if output.shape[1] != num_classes:
        raise InputError(
            f"{who} has {output.shape[1]} classes, the data has {num_classes}; both need the same classes."
        )


def has_unused_parameters(model: nn.Module, image_size: int) -> bool:
    """Whether parameters of a network have no part in its answer, as those of a head that is never called.

    Args:
        model: The network, on the CPU; it is left as it was.
        image_size: Side of its images in pixels.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with evaluating(model):
        answer = model(torch.zeros(2, 3, image_size, image_size)).sum()
    gradients = torch.autograd.grad(answer, parameters, allow_unused=True)
    return any(gradient is None for gradient in gradients)

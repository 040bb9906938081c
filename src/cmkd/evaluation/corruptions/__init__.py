"""Corrupted images: the 15 corruptions of ImageNet-C and CIFAR-10-C, elastic transformation among them.

Batches of tensors on any device, and random numbers that depend on seed, image, corruption and severity
alone: the same image is corrupted in the same way in every batch and run. Grey images stay grey. The
libraries that offer these corruptions take one image at a time on the CPU, draw from a global generator, have
ImageNet's strengths alone and refuse images below 32 pixels, hence these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cmkd.errors import InputError, unknown_name
from cmkd.evaluation.corruptions import blur, digital, noise, weather
from cmkd.evaluation.corruptions.draws import Draws
from cmkd.evaluation.corruptions.parameters import table_for

GROUPS: dict[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
#: In the order of the papers. Their random numbers depend on the place here: add at the end.
NAMES = tuple(name for group in GROUPS.values() for name in group)
SEVERITIES = (1, 2, 3, 4, 5)

_FUNCTIONS: dict[str, Callable[[Tensor, Draws, Any], Tensor]] = {
    name: getattr(module, name)
    for module, group in zip((noise, blur, weather, digital), GROUPS, strict=True)
    for name in GROUPS[group]
}


def corrupt(images: Tensor, indices: Tensor, *, name: str, severity: int, seed: int = 0) -> Tensor:
    """Corrupt a batch.

    Args:
        images: uint8 `(B, channels, H, H)` with 1 or 3 channels. An image whose three channels are equal is
            corrupted as one of a single channel, whatever the rest of the batch is.
        indices: Index of every image in its data set, `(B,)` int64, on the images' device.
        name: One of `NAMES`.
        severity: 1 to 5.
        seed: Any integer.

    Returns:
        A tensor like `images`.

    Raises:
        InputError: There is no such corruption or severity, or the images are no such batch.

    Example:
        >>> grey = torch.full((1, 1, 4, 4), 100, dtype=torch.uint8)
        >>> corrupt(grey, torch.tensor([0]), name="brightness", severity=3)[0, 0, 0]
        tensor([138, 138, 138, 138], dtype=torch.uint8)
    """
    if name not in NAMES:
        raise unknown_name("corruption", name, NAMES)
    if severity not in SEVERITIES:
        raise InputError(f"the severity is {severity}; give 1, 2, 3, 4 or 5.")
    if (
        images.dtype != torch.uint8
        or images.ndim != 4
        or images.shape[1] not in (1, 3)
        or images.shape[2] != images.shape[3]
    ):
        raise InputError(
            f"images are {images.dtype} {tuple(images.shape)}; expected uint8 (B, channels, H, H) with 1 or "
            "3 channels."
        )
    grey = (images == images[:, :1]).flatten(1).all(1)
    if images.shape[1] == 3 and grey.any():
        shown = torch.empty_like(images)
        how: dict[str, Any] = {"name": name, "severity": severity, "seed": seed}
        shown[grey] = corrupt(images[grey][:, :1], indices[grey], **how).expand(-1, 3, -1, -1)
        if not grey.all():
            shown[~grey] = corrupt(images[~grey], indices[~grey], **how)
        return shown
    draws = Draws(indices, seed, NAMES.index(name) * len(SEVERITIES) + severity - 1)
    _, table = table_for(images.shape[-1])
    corrupted = _FUNCTIONS[name](images.float() / 255, draws, table[name][severity - 1])
    return (corrupted * 255).clamp(0, 255).round().to(torch.uint8)

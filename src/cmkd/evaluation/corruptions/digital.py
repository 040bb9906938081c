"""Contrast, distortion, coarse pixels and compression."""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cmkd.evaluation.corruptions.draws import Draws
from cmkd.evaluation.corruptions.sampling import along_both, box_matrix, gaussian_matrix


def contrast(images: Tensor, draws: Draws, factor: float) -> Tensor:
    """Draw every channel of an image towards its mean."""
    mean = images.mean((2, 3), keepdim=True)
    return (images - mean) * factor + mean


def elastic_transform(images: Tensor, draws: Draws, parameters: tuple[float, float, float]) -> Tensor:
    """Bend the image: an affine map that moves three of its points, and a smooth field of shifts.

    The published programs resample twice, once for either; here both are put together and the image is
    resampled once, bilinearly, mirrored beyond its edges.

    Args:
        images: `(B, channels, H, H)` in [0, 1].
        draws: Random numbers.
        parameters: Strength of the shifts, standard deviation of the filter that makes them smooth, and the
            farthest that the three points move along either axis; in pixels.
    """
    strength, sigma, moved = parameters
    batch, size = images.shape[0], images.shape[-1]
    centre, reach = size // 2, size // 3
    before = torch.tensor(
        [[centre + reach, centre + reach], [centre + reach, centre - reach], [centre - reach] * 2],
        dtype=torch.float64,
        device=images.device,
    )
    after = before + (2 * draws.uniform(0, 3, 2).double() - 1) * moved
    # Where each pixel of the result comes from: the map that takes the moved points back.
    homogeneous = torch.cat([after, torch.ones_like(after[..., :1])], 2)
    back = torch.linalg.solve(homogeneous, before.expand(batch, 3, 2))
    axis = torch.arange(size, dtype=torch.float64, device=images.device)
    places = torch.stack([axis.expand(size, size), axis[:, None].expand(size, size)], -1).expand(
        batch, -1, -1, -1
    )
    if strength:
        smooth = gaussian_matrix(size, sigma, truncate=3, reflect=True)
        shifts = along_both(smooth, 2 * draws.uniform(1, 2, size, size).double() - 1) * strength
        places = places + shifts.permute(0, 2, 3, 1)
    ones = torch.ones_like(places[..., :1])
    source = torch.cat([places, ones], -1).flatten(1, 2) @ back
    grid = (2 * source / (size - 1) - 1).view(batch, size, size, 2).to(images.dtype)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=True)


def pixelate(images: Tensor, draws: Draws, factor: float) -> Tensor:
    """Shrink to a part of the side and enlarge again, both with Pillow's box filter."""
    size = images.shape[-1]
    small = max(int(size * factor), 1)
    return along_both(box_matrix(small, size), along_both(box_matrix(size, small), images))


def jpeg_compression(images: Tensor, draws: Draws, quality: int) -> Tensor:
    """Write as JPEG and read again, image by image on the CPU, which gives the same bits everywhere."""
    from PIL import Image

    pixels = (images * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    written = []
    for each in pixels:
        buffer = io.BytesIO()
        Image.fromarray(each.squeeze(-1) if each.shape[-1] == 1 else each).save(
            buffer, "JPEG", quality=quality
        )
        with Image.open(buffer) as read:
            written.append(np.asarray(read).reshape(each.shape))
    return torch.from_numpy(np.stack(written)).permute(0, 3, 1, 2).to(images) / 255

"""A teacher that is run beside the student: frozen, in eval mode, fed what it expects."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cmkd.data import Batch
from cmkd.errors import InputError


class LiveTeacher(nn.Module):
    """A frozen network that answers a batch with logits.

    Args:
        network: The teacher.
        mean: Mean that the batches are normalised with, one value per channel.
        std: Standard deviation that goes with `mean`.
        teacher_mean: Mean that the teacher was trained with; `mean` by default.
        teacher_std: Standard deviation that goes with `teacher_mean`.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        teacher_mean: Sequence[float] | None = None,
        teacher_std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        own_mean, own_std = torch.tensor(mean), torch.tensor(std)
        wanted_mean = own_mean if teacher_mean is None else torch.tensor(teacher_mean)
        wanted_std = own_std if teacher_std is None else torch.tensor(teacher_std)
        for name, value in (("mean", wanted_mean), ("std", wanted_std)):
            if value.shape != own_mean.shape:
                raise InputError(
                    f"the teacher's {name} has {value.numel()} values, "
                    f"the images have {own_mean.numel()} channels."
                )
        # ((x * std + mean) - teacher_mean) / teacher_std as one multiply-add
        self.register_buffer("scale", (own_std / wanted_std).view(1, -1, 1, 1), persistent=False)
        self.register_buffer(
            "shift", ((own_mean - wanted_mean) / wanted_std).view(1, -1, 1, 1), persistent=False
        )
        self.renormalizes = not (torch.equal(own_mean, wanted_mean) and torch.equal(own_std, wanted_std))

    def train(self, mode: bool = True) -> LiveTeacher:
        """Stay in eval mode: a teacher whose batch statistics move teaches something else every step."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, batch: Batch) -> Tensor:
        """Return logits `(B, C)` in float32."""
        images = batch.images
        if self.renormalizes:
            images = images * self.scale + self.shift
        return self.network(images).float()

"""A teacher that is run beside the student: frozen, in eval mode, fed what it expects."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmkd.data import Batch
from cmkd.errors import InputError
from cmkd.teachers.folding import fold_batch_norm


class LiveTeacher(nn.Module):
    """A frozen network that answers a batch with logits.

    Args:
        network: The teacher.
        mean: Mean that the batches are normalised with, one value per channel.
        std: Standard deviation that goes with `mean`.
        teacher_mean: Mean that the teacher was trained with; `mean` by default.
        teacher_std: Standard deviation that goes with `teacher_mean`.
        image_size: Side in pixels that images are brought to for it, bilinearly and without aliasing; by
            default it is given them as they are.

    Attributes:
        network: The teacher, as it was given.
        folded: What answers in its place after `fold`, if that was possible.
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
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.network = network.requires_grad_(False).eval()
        self.folded: nn.Module | None = None
        self._modules_of_network = tuple(self.network.modules())  # walking the tree takes ten times as long
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

    @property
    def members(self) -> tuple[LiveTeacher, ...]:
        """The teachers that answer: itself alone, other than in an ensemble."""
        return (self,)

    def fold(self, image_size: int) -> None:
        """Let a network without batch norm answer from now on, where that is the same (`fold_batch_norm`).

        The weights must not change afterwards. Hooks on `network` see what they ask for: as long as it has
        any, it answers itself.

        Args:
            image_size: Side of the images in pixels, for trying it out.
        """
        generator = torch.Generator().manual_seed(0)
        example = torch.randn(2, self.scale.numel(), image_size, image_size, generator=generator)
        self.folded = fold_batch_norm(
            self.network, example.to(self.scale.device, memory_format=torch.channels_last)
        )

    def train(self, mode: bool = True) -> LiveTeacher:
        """Stay in eval mode: a teacher whose batch statistics move teaches something else every step."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, batch: Batch) -> Tensor:
        """Return logits `(B, C)` in float32."""
        images = batch.images
        if self.renormalizes:
            images = images * self.scale + self.shift
        if self.image_size is not None and images.shape[-1] != self.image_size:
            images = F.interpolate(images, (self.image_size,) * 2, mode="bilinear", antialias=True)
        network = self.network if self.folded is None or self._has_hooks() else self.folded
        return network(images).float()

    def _has_hooks(self) -> bool:
        return any(each._forward_hooks or each._forward_pre_hooks for each in self._modules_of_network)

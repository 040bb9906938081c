"""Losses on the pixels of an image, some of which do not count."""

from __future__ import annotations

from torch import Tensor, nn

from cmkd.errors import InputError
from cmkd.losses.tokens import TokenLoss
from cmkd.losses.top import TopLogits


class DenseLoss(TokenLoss):
    """A loss on logits, for logits `(N, C, H, W)` of pixels, some of which do not count.

    What `TokenLoss` is, for classes in the second dimension, as in segmentation.

    Args:
        loss: Any loss on logits; `CMKDLoss()` by default.
        ignore_index: Pixels with this target do not count; many data sets have 255.
        chunk: Pixels to compute at a time; None for about 2 million logits (16 million on an accelerator).

    Example:
        >>> import torch
        >>> from cmkd.losses import KDLoss
        >>> distill = DenseLoss(KDLoss(reduction="none"), ignore_index=255)
        >>> target = torch.tensor([[[0, 1], [255, 1]]])
        >>> distill(torch.zeros(1, 3, 2, 2), torch.rand(1, 3, 2, 2), target) > 0
        tensor([[[ True,  True],
                 [False,  True]]])
    """

    classes_last = False

    def __init__(
        self, loss: nn.Module | None = None, *, ignore_index: int = -100, chunk: int | None = None
    ) -> None:
        super().__init__(loss, ignore_index=ignore_index, chunk=chunk)

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor | TopLogits,
        target: Tensor | None = None,
        *,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the loss over the pixels that count.

        Args:
            student_logits: (N, C, H, W) or (N, C, *), floating.
            teacher_logits: Of the same shape; no gradient flows into it.
            target: (N, H, W) int64, or None; `ignore_index` where a pixel does not count.
            mask: (N, H, W) bool, True for every pixel that counts, or None.

        Returns:
            A scalar, or (N, H, W) for reduction `"none"`; as `TokenLoss` else.

        Raises:
            InputError: Input that does not fit; the classes of the shapes that are named are last.
        """
        if isinstance(teacher_logits, TopLogits):
            raise InputError("the teacher gives its top classes alone: use TokenLoss, with the classes last.")
        student, teacher = (_classes_last(logits) for logits in (student_logits, teacher_logits))
        return super().forward(student, teacher, target, mask=mask)


def _classes_last(logits: Tensor) -> Tensor:
    """Move the classes of (N, C, *) to the end; what is no such tensor is left to be refused."""
    return logits.movedim(1, -1) if isinstance(logits, Tensor) and logits.dim() > 1 else logits

"""What a loss on features reads: the logits of both networks and the activations on the way to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor, nn


class Outputs(NamedTuple):
    """What one call of a network gives.

    Example:
        >>> import torch
        >>> Outputs(torch.zeros(2, 10), {"layer3": torch.zeros(2, 64, 8, 8)}).features["layer3"].shape
        torch.Size([2, 64, 8, 8])
    """

    logits: Tensor
    """(N, C)."""
    features: dict[str, Tensor]
    """Activations by the name of their layer, in the order in which they were asked for: maps (N, C, H, W),
    vectors (N, D), or the tokens of a transformer, (N, T, D)."""


class NetworkLayers(Protocol):
    """The layers of a network that methods choose theirs from, by module name."""

    @property
    def stages(self) -> Sequence[str]:
        """Ends of the stages, from early to late; their outputs are maps or tokens."""
        ...

    @property
    def preactivations(self) -> Sequence[str]:
        """The same stages before their last activation."""
        ...

    @property
    def pooled(self) -> str:
        """The layer whose flattened output is the embedding that the classifier reads."""
        ...

    @property
    def classifier(self) -> str:
        """The last linear layer."""
        ...

    @property
    def before_pooling(self) -> str:
        """What goes into the pooling."""
        ...

    @property
    def projector(self) -> str:
        """What `cmkd.models.reuse_classifier` has put before the pooling; empty if it has not."""
        ...


class Trial(NamedTuple):
    """What a method may look at when it makes its learnable parts."""

    student: list[Tensor]
    """Features of the student on a trial batch, one tensor per layer."""
    teacher: list[Tensor]
    """Those of the teacher, paired with them."""
    num_samples: int | None
    """Images in the training data, if known."""
    num_classes: int
    classifier: nn.Module | None
    """The last layer of the teacher, if given."""
    trained_on: Tensor | None
    """Which of the images are trained on, (M,) int64; None for all."""
    targets: Tensor | None
    """Classes of all images, (num_samples,) int64, if given."""


class FeatureBatch(NamedTuple):
    """Checked input of a loss on features, in float32 or float64."""

    student: list[Tensor]
    """One tensor per layer: (N, C, H, W), (N, T, D) or (N, D)."""
    teacher: list[Tensor]
    """Paired with them, detached."""
    target: Tensor | None
    """(N,) int64."""
    indices: Tensor | None
    """(N,) int64: which images of the training data these are."""

"""What a network makes of images before its classifier, as points in a plane."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor, nn

from cmkd.errors import InputError
from cmkd.models.capture import Capture
from cmkd.models.layers import feature_layers

#: Points that t-SNE takes its neighbourhoods from, as in the first implementation.
PERPLEXITY = 30.0


class Penultimate:
    """A network as a function from images to its embedding `(N, D)`, the input of its classifier.

    Args:
        network: In eval mode.
        image_size: Side of its images in pixels.

    Raises:
        InputError: Its layers are not found.
    """

    def __init__(self, network: nn.Module, image_size: int) -> None:
        layers = feature_layers(network, image_size=image_size)
        self._layer = layers.pooled
        self._capture = Capture(network, [self._layer])

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the embedding in float32."""
        return self._capture(images).features[self._layer].flatten(1).float()


def tsne(features: Tensor, *, seed: int = 0) -> Tensor:
    """Lay points out by t-SNE (van der Maaten and Hinton 2008), begun at their principal components.

    Args:
        features: `(N, D)`.
        seed: Decides what is random.

    Returns:
        `(N, 2)` float32.

    Raises:
        InputError: scikit-learn is not installed, or there are fewer than 10 points.
    """
    if len(features) < 10:
        raise InputError(f"t-SNE of {len(features)} images says nothing; it takes at least 10.")
    if importlib.util.find_spec("sklearn") is None:
        raise InputError("t-SNE needs scikit-learn: pip install scikit-learn.")
    from sklearn.manifold import TSNE

    points = features.double().cpu()
    points = points - points.mean(0)
    # Of thousands of dimensions 50 hold what neighbourhoods depend on, at a fraction of the time.
    if points.shape[1] > 50:
        _, _, directions = torch.linalg.svd(points, full_matrices=False)
        points = points @ directions[:50].T
    perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
    start = "pca" if points.shape[1] > 1 else "random"
    layout = TSNE(perplexity=perplexity, init=start, random_state=seed).fit_transform(points.numpy())
    return torch.from_numpy(layout).float()


def neighbour_purity(features: Tensor, targets: Tensor) -> float:
    """Return the share of images whose nearest neighbour, in Euclidean distance, is of their class.

    Args:
        features: `(N, D)`, N at least 2.
        targets: Class indices `(N,)`.

    Example:
        >>> neighbour_purity(torch.tensor([[0.0], [1.0], [5.0], [7.0]]), torch.tensor([0, 0, 1, 0]))
        0.5
    """
    distances = torch.cdist(features.double(), features.double())
    distances.fill_diagonal_(float("inf"))
    return (targets[distances.argmin(1)] == targets).double().mean().item()

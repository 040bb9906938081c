"""What a network makes of images before its classifier, as points in a plane."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from cmkd.errors import InputError
from cmkd.models.capture import Capture
from cmkd.models.layers import feature_layers

#: How points are laid out.
Layout: TypeAlias = Literal["tsne", "umap"]
#: Points that t-SNE takes its neighbourhoods from, as in the first implementation.
PERPLEXITY = 30.0
#: Nearest points that UMAP takes for neighbours, its own default.
NEIGHBOURS = 15
_LIBRARIES = {"tsne": ("sklearn", "scikit-learn", "t-SNE"), "umap": ("umap", "umap-learn", "UMAP")}


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


def lay_out(features: Tensor, layout: Layout = "tsne", *, seed: int = 0) -> Tensor:
    """Lay points out in the plane.

    Args:
        features: `(N, D)`.
        layout: `tsne`, t-SNE (van der Maaten and Hinton 2008) from scikit-learn, begun at the principal
            components, or `umap` (McInnes et al. 2018) from umap-learn.
        seed: Decides what is random.

    Returns:
        `(N, 2)` float32.

    Raises:
        InputError: The library is not installed, there are fewer than 10 points, or they are not finite or
            all the same.
    """
    module, package, name = _LIBRARIES[layout]
    if len(features) < 10:
        raise InputError(f"{name} of {len(features)} images says nothing; it takes at least 10.")
    if importlib.util.find_spec(module) is None:
        raise InputError(f"{name} needs {package}: pip install {package}.")
    if not features.isfinite().all():
        raise InputError(
            f"{name} needs finite features, and the network makes NaN or infinity of some images."
        )
    if (features == features[0]).all():  # scikit-learn divides by their deviation, and crashes
        raise InputError(f"{name} says nothing of this network: it makes the same features of all images.")
    points = features.double().cpu()
    points = points - points.mean(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of these libraries, about their own defaults
        return _tsne(points, seed) if layout == "tsne" else _umap(points, seed)


def _tsne(points: Tensor, seed: int) -> Tensor:
    from sklearn.manifold import TSNE

    # Of thousands of dimensions 50 hold what neighbourhoods depend on, at a fraction of the time.
    if points.shape[1] > 50:
        _, _, directions = torch.linalg.svd(points, full_matrices=False)
        points = points @ directions[:50].T
    perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
    start = "pca" if points.shape[1] > 1 else "random"
    return _plane(TSNE(perplexity=perplexity, init=start, random_state=seed).fit_transform(points.numpy()))


def _umap(points: Tensor, seed: int) -> Tensor:
    from umap import UMAP

    neighbours = min(NEIGHBOURS, len(points) - 1)
    # A random start: the spectral one asks for more points than there may be, and for distinct ones.
    layout = UMAP(n_neighbors=neighbours, init="random", random_state=seed, n_jobs=1)
    return _plane(layout.fit_transform(points.float().numpy()))


def _plane(layout: Any) -> Tensor:
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

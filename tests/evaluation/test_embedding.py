import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from cmkd import models
from cmkd.errors import InputError
from cmkd.evaluation.embedding import Penultimate, lay_out, neighbour_purity


def test_the_embedding_is_what_the_classifier_reads():
    network = models.build("resnet8", 7).eval()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features = Penultimate(network, 32)(images)
    assert features.shape == (4, 64)
    with torch.no_grad():
        assert torch.allclose(network.get_submodule("fc")(features), network(images), atol=1e-5)


def test_purity_is_leave_one_out_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 5, generator=generator)
    targets = (features[:, 0] + 0.5 * torch.randn(60, generator=generator) > 0).long()
    right = 0
    for each in range(60):
        others = [other for other in range(60) if other != each]
        model = KNeighborsClassifier(1).fit(features[others].numpy(), targets[others].numpy())
        right += int(model.predict(features[each : each + 1].numpy())[0] == targets[each])
    assert neighbour_purity(features, targets) == pytest.approx(right / 60)


@pytest.mark.parametrize("layout", ["tsne", "umap"])
def test_clusters_stay_clusters(layout):
    if layout == "umap":
        pytest.importorskip("umap", reason="umap-learn is nowhere needed but for this layout")
    generator = torch.Generator().manual_seed(0)
    centres = 20 * torch.randn(3, 80, generator=generator)
    targets = torch.arange(60) % 3
    features = centres[targets] + torch.randn(60, 80, generator=generator)
    points = lay_out(features, layout)
    assert points.shape == (60, 2)
    assert neighbour_purity(points, targets) == 1.0
    assert torch.equal(points, lay_out(features, layout))


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        (torch.randn(9, 4), "at least 10"),
        (torch.ones(12, 4), "the same features of all images"),
        (torch.randn(12, 4).log(), "NaN"),
    ],
)
def test_what_has_no_layout_is_refused(features, reason):
    with pytest.raises(InputError, match=reason):
        lay_out(features)


def test_a_library_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install umap-learn"):
        lay_out(torch.randn(12, 4), "umap")

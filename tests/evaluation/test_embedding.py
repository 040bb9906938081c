import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from cmkd import models
from cmkd.errors import InputError
from cmkd.evaluation.embedding import Penultimate, neighbour_purity, tsne


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


def test_clusters_stay_clusters():
    generator = torch.Generator().manual_seed(0)
    centres = 20 * torch.randn(3, 80, generator=generator)
    targets = torch.arange(60) % 3
    features = centres[targets] + torch.randn(60, 80, generator=generator)
    layout = tsne(features)
    assert layout.shape == (60, 2)
    assert neighbour_purity(layout, targets) == 1.0
    assert torch.equal(layout, tsne(features))


def test_too_few_points_are_refused():
    with pytest.raises(InputError, match="at least 10"):
        tsne(torch.zeros(9, 4))

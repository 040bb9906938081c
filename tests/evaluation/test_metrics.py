import numpy as np
import pytest
import scipy.stats
import torch
from scipy.special import log_softmax, softmax
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score

from cmkd.data import Batch
from cmkd.evaluation import calibration_error, collect_logits, cpu_latency, evaluate_logits, fidelity, quality


@pytest.fixture
def scores():
    generator = np.random.default_rng(0)
    student, teacher = generator.normal(size=(2, 200, 10)) * 2
    student += teacher
    targets = np.where(generator.random(200) < 0.7, student.argmax(1), generator.integers(0, 10, 200))
    return student, teacher, targets


def test_quality_is_scikit_learns(scores):
    logits, _, targets = scores
    measured = quality(torch.tensor(logits), torch.tensor(targets))
    assert measured["accuracy"] == pytest.approx(accuracy_score(targets, logits.argmax(1)), abs=1e-6)
    assert measured["top5"] == pytest.approx(top_k_accuracy_score(targets, logits, k=5), abs=1e-6)
    assert measured["nll"] == pytest.approx(log_loss(targets, softmax(logits, 1)), rel=1e-5)


def test_calibration_error_by_the_definition(scores):
    logits, _, targets = scores
    probabilities = softmax(logits, 1)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == targets
    bins = np.digitize(confidence, np.linspace(0, 1, 16)[1:-1])
    gaps = [
        abs(confidence[bins == each].mean() - right[bins == each].mean()) * (bins == each).mean()
        for each in set(bins)
    ]
    measured = quality(torch.tensor(logits), torch.tensor(targets))["ece"]
    assert measured == pytest.approx(sum(gaps), abs=1e-9)


def test_calibration_error_is_torchmetrics(scores):
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, targets = torch.tensor(scores[0]), torch.tensor(scores[2])
    for bins in (5, 15):
        theirs = multiclass_calibration_error(logits.softmax(1), targets, 10, n_bins=bins).item()
        assert calibration_error(logits, targets, bins=bins) == pytest.approx(theirs, abs=1e-6)


def test_fidelity_is_scipys_row_by_row(scores):
    student, teacher, _ = scores
    measured = fidelity(torch.tensor(student), torch.tensor(teacher))
    rows = list(zip(student, teacher, strict=True))
    rho = np.mean([scipy.stats.spearmanr(one, other).statistic for one, other in rows])
    r = np.mean([scipy.stats.pearsonr(one, other).statistic for one, other in rows])
    divergence = scipy.stats.entropy(softmax(teacher, 1), np.exp(log_softmax(student, 1)), axis=1).mean()
    assert measured["rank_correlation"] == pytest.approx(rho, abs=1e-6)
    assert measured["value_correlation"] == pytest.approx(r, abs=1e-6)
    assert measured["teacher_kl"] == pytest.approx(divergence, rel=1e-5)
    assert measured["agreement"] == pytest.approx((student.argmax(1) == teacher.argmax(1)).mean(), abs=1e-6)


def test_few_classes_have_no_top_five_and_no_teacher_no_fidelity():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    measured = evaluate_logits(logits, torch.tensor([0, 0]), None)
    assert measured.keys() == {"accuracy", "nll", "ece"}
    assert measured["accuracy"] == 0.5


def test_a_constant_network_is_measured_without_nan():
    measured = evaluate_logits(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long), torch.randn(4, 3))
    assert all(np.isfinite(value) for value in measured.values())
    assert measured["rank_correlation"] == 0


def test_logits_keep_the_order_of_the_batches():
    batches = [
        Batch(torch.full((2, 3, 1, 1), float(view)), torch.tensor([view, 9]), torch.arange(2), view)
        for view in (0, 1)
    ]
    logits, targets = collect_logits(lambda batch: batch.images.flatten(1), batches)
    assert logits[:, 0].tolist() == [0, 0, 1, 1]
    assert targets.tolist() == [0, 9, 1, 9]


def test_no_network_is_shown_a_batch_without_images():
    """Of several processes some have none of a small last batch."""

    def network(batch):
        return batch.images.view(batch.images.shape[0], -1)  # fails where -1 may be anything

    some, none = (
        Batch(torch.zeros(count, 3, 1, 1), torch.zeros(count, dtype=torch.long), torch.arange(count), 0)
        for count in (2, 0)
    )
    assert collect_logits(network, [some, none])[0].shape == (2, 3)
    empty, targets = collect_logits(network, [none])
    assert torch.cat([empty, torch.ones(2, 3)]).shape == (2, 3)  # with the rows of other processes
    assert (len(targets), targets.dtype) == (0, torch.int64)


def test_latency_leaves_the_network_as_it_was():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(12), torch.nn.Linear(12, 2))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    measured = cpu_latency(network, 2, runs=3, warmup=1)
    assert 0 < measured["latency_p10_ms"] <= measured["latency_ms"] <= measured["latency_p90_ms"]
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from cmkd.evaluation import calibration_error
from cmkd.evaluation.calibration import TEMPERATURES, calibration, fit_temperature


@pytest.fixture
def answers():
    generator = np.random.default_rng(2)
    logits = generator.normal(size=(400, 6)) * 3
    targets = np.array([generator.choice(6, p=row) for row in softmax(logits / 2.5, 1)])
    return torch.tensor(logits), torch.tensor(targets)


def test_nll_brier_and_errors_by_other_means(answers):
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, targets = answers
    found = calibration(logits, targets)
    p = softmax(logits.numpy(), 1)
    assert found["nll"] == pytest.approx(log_loss(targets, p))
    assert found["brier"] == pytest.approx(((p - np.eye(6)[targets]) ** 2).sum(1).mean())
    for key, norm in (("ece", "l1"), ("mce", "max")):
        theirs = multiclass_calibration_error(logits.softmax(1), targets, 6, n_bins=15, norm=norm).item()
        assert found[key] == pytest.approx(theirs, abs=1e-6)
    assert found["ece"] == pytest.approx(calibration_error(logits, targets), abs=1e-12)


def test_the_reliability_curve_is_scikit_learns(answers):
    logits, targets = answers
    curve = calibration(logits, targets)["reliability"]
    confidence, predicted = logits.softmax(1).max(1)
    theirs = calibration_curve((predicted == targets).numpy(), confidence.numpy(), n_bins=15)
    met = [each for each in range(15) if curve["count"][each]]
    np.testing.assert_allclose([curve["accuracy"][each] for each in met], theirs[0])
    np.testing.assert_allclose([curve["confidence"][each] for each in met], theirs[1])
    assert sum(curve["count"]) == 400
    assert all(curve["accuracy"][each] is None for each in range(15) if each not in met)


def test_brier_by_hand():
    # Half and half: (1/2)² + (1/2)²; certain and wrong: 1² + 1²
    assert calibration(torch.zeros(1, 2), torch.tensor([0]))["brier"] == pytest.approx(0.5)
    assert calibration(torch.tensor([[1e3, 0.0]]), torch.tensor([1]))["brier"] == pytest.approx(2)


def test_the_temperature_is_the_best_of_a_fine_grid(answers):
    logits, targets = answers
    temperature, at_limit = fit_temperature(logits, targets)
    grid = np.linspace(1, 5, 1001)
    rows = np.arange(len(targets)), targets.numpy()
    best = grid[np.argmin([-log_softmax(logits.numpy() / each, 1)[rows].mean() for each in grid])]
    assert temperature == pytest.approx(best, abs=5e-3)
    assert temperature == pytest.approx(2.5, abs=0.5)  # what the labels were drawn with
    assert not at_limit
    scaled = calibration(logits, targets, temperature=temperature)
    assert scaled["nll"] < calibration(logits, targets)["nll"]
    assert scaled["ece"] == pytest.approx(calibration(logits / temperature, targets)["ece"])


def test_a_network_that_errs_nowhere_is_at_the_limit():
    temperature, at_limit = fit_temperature(torch.eye(4), torch.arange(4))
    assert at_limit
    assert temperature == pytest.approx(TEMPERATURES[0])

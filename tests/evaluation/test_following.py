import numpy as np
import pytest
import scipy.stats
import torch
from scipy.special import softmax

from cmkd.evaluation import following as module
from cmkd.evaluation.following import QUANTILES, following, per_image
from cmkd.evaluation.kendall import kendall_tau


def logits_of(classes, *, levels=None, rows=60):
    generator = np.random.default_rng(classes)
    student, teacher = generator.normal(size=(2, rows, classes))
    student += teacher
    if levels:  # many ties, in both and in one of them
        student, teacher = np.round(student * levels), np.round(teacher * levels)
    return student, teacher, generator.integers(0, classes, rows)


@pytest.mark.parametrize("classes", [2, 3, 7, 8, 9, 100, 257])
@pytest.mark.parametrize("levels", [None, 1])
def test_kendall_is_scipys(classes, levels):
    student, teacher, _ = logits_of(classes, levels=levels)
    theirs = [
        scipy.stats.kendalltau(one, other).statistic for one, other in zip(student, teacher, strict=True)
    ]
    ours = kendall_tau(torch.tensor(student), torch.tensor(teacher))
    # SciPy has NaN for constant rows, we have 0.
    np.testing.assert_allclose(ours.numpy(), np.nan_to_num(theirs), atol=1e-12)


def test_kendall_by_hand():
    # Of 6 pairs one is discordant: (5 - 1) / 6
    tau = kendall_tau(torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([[1.0, 2, 4, 3]]))
    assert tau.item() == pytest.approx(2 / 3)
    # x ties one pair: (5 - 0) / sqrt(5 * 6)
    tau = kendall_tau(torch.tensor([[1.0, 1, 3, 4]]), torch.tensor([[1.0, 2, 3, 4]]))
    assert tau.item() == pytest.approx(5 / 30**0.5)


@pytest.mark.parametrize("classes", [3, 6, 40])
def test_every_comparison_is_scipys_row_by_row(classes, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 11 * classes)  # rows in pieces that do not divide them
    student, teacher, targets = logits_of(classes)
    found = {
        name: each.numpy()
        for name, each in per_image(*map(torch.tensor, (student, teacher, targets))).items()
    }
    stats = scipy.stats
    expected = {
        "kl": lambda s, t, _: stats.entropy(softmax(t), softmax(s)),
        "pearson": lambda s, t, _: stats.pearsonr(s, t).statistic,
        "spearman": lambda s, t, _: stats.spearmanr(s, t).statistic,
        "kendall": lambda s, t, _: stats.kendalltau(s, t).statistic,
        "non_target_spearman": lambda s, t, y: stats.spearmanr(np.delete(s, y), np.delete(t, y)).statistic,
    }
    if classes > 5:
        expected["top5_overlap"] = lambda s, t, _: len({*s.argsort()[-5:]} & {*t.argsort()[-5:]}) / 5
    assert found.keys() == expected.keys()
    for name, reference in expected.items():
        theirs = [reference(*row) for row in zip(student, teacher, targets, strict=True)]
        np.testing.assert_allclose(found[name], theirs, atol=1e-9, err_msg=name)


def test_means_and_quantiles_are_numpys():
    student, teacher, targets = map(torch.tensor, logits_of(20))
    found = following(student, teacher, targets)
    values = per_image(student, teacher, targets)["kendall"].numpy()
    assert found["kendall"]["mean"] == pytest.approx(values.mean())
    np.testing.assert_allclose(found["kendall"]["quantiles"], np.quantile(values, QUANTILES), atol=1e-12)
    assert found["agreement"]["value"] == pytest.approx(
        (student.argmax(1) == teacher.argmax(1)).double().mean()
    )


def test_a_student_that_is_its_teacher_and_one_image():
    logits = torch.randn(1, 9, dtype=torch.float64)
    found = following(logits, logits, torch.tensor([3]))
    assert found["kl"]["mean"] == pytest.approx(0, abs=1e-12)
    for name in ("pearson", "spearman", "kendall", "top5_overlap", "non_target_spearman"):
        assert found[name]["quantiles"] == pytest.approx([1.0] * 5)


def test_two_classes_and_constant_rows_give_no_nan():
    found = following(torch.zeros(4, 2), torch.randn(4, 2), torch.tensor([0, 1, 0, 1]))
    assert "non_target_spearman" not in found
    assert "top5_overlap" not in found
    for name in ("pearson", "spearman", "kendall"):
        assert found[name]["mean"] == 0
    assert np.isfinite(found["kl"]["mean"])

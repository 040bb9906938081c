import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, recall_score, top_k_accuracy_score

from cmkd.evaluation.classes import accuracy, mistakes


@pytest.fixture
def answers():
    generator = np.random.default_rng(1)
    student, teacher = generator.normal(size=(2, 300, 8))
    targets = np.where(generator.random(300) < 0.5, teacher.argmax(1), generator.integers(0, 8, 300))
    return student + teacher, teacher, targets


def test_counts_are_scikit_learns(answers):
    logits, _, targets = answers
    found = accuracy(torch.tensor(logits), torch.tensor(targets))
    assert found["top1"]["value"] == pytest.approx((logits.argmax(1) == targets).mean())
    assert found["top5"]["value"] == pytest.approx(top_k_accuracy_score(targets, logits, k=5))
    per_class = np.array(found["per_class"]["right"]) / np.array(found["per_class"]["images"])
    np.testing.assert_allclose(per_class, recall_score(targets, logits.argmax(1), average=None))
    matrix = np.zeros((8, 8), int)
    matrix[found["confusion"]["target"], found["confusion"]["predicted"]] = found["confusion"]["count"]
    np.testing.assert_array_equal(matrix, confusion_matrix(targets, logits.argmax(1)))


def test_a_class_without_images_has_a_row_of_zeros():
    found = accuracy(torch.eye(3)[:2], torch.tensor([0, 0]))
    assert found["per_class"] == {"images": [2, 0, 0], "right": [1, 0, 0]}
    assert found["confusion"] == {"target": [0, 0], "predicted": [0, 1], "count": [1, 1]}
    assert "top5" not in found


def test_mistakes_by_hand():
    #           both right, student wrong, teacher wrong, both wrong
    targets = torch.tensor([0, 1, 1, 2])
    student = torch.eye(3)[[0, 2, 1, 0]]
    teacher = torch.eye(3)[[0, 1, 0, 1]]
    found = mistakes(student, teacher, targets, torch.tensor([10, 11, 12, 13]))
    shares = {
        name: found[name]["count"] for name in ("both_right", "student_only", "teacher_only", "both_wrong")
    }
    assert shares == dict.fromkeys(shares, 1)
    assert found["images"] == [11]
    assert found["per_class"] == {"gains": [0, 1, 0], "losses": [0, 1, 0]}


def test_gains_and_losses_are_the_difference_in_accuracy(answers):
    logits, teacher, targets = (torch.tensor(each) for each in answers)
    changes = mistakes(logits, teacher, targets, torch.arange(300))["per_class"]
    ours, theirs = (accuracy(each, targets)["per_class"]["right"] for each in (logits, teacher))
    assert [a - b for a, b in zip(ours, theirs, strict=True)] == [
        gain - loss for gain, loss in zip(changes["gains"], changes["losses"], strict=True)
    ]

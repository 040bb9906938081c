"""Teachers that give their likeliest classes alone: by hand, and by what must hold for K = V."""

import itertools
import math

import pytest
import torch
from scipy import stats
from scipy.special import log_softmax

from cmkd import CMKDLoss, DISTLoss, DKDLoss, InputError, KDLoss, TokenLoss
from cmkd.losses import (
    MLKDLoss,
    NKDLoss,
    PearsonLoss,
    SpearmanLoss,
    TopLogits,
    available,
    top_logits,
)

#: All that do not compare classes along the tokens.
METHODS = {name: kind() for name, kind in available().items() if name == "CMKD" or not kind().across_batch}
STUDENT = torch.tensor([[[0.2, 0.4, 0.1, 0.3]]], dtype=torch.float64).log()
TEACHER = torch.tensor([[[0.5, 0.1, 0.3, 0.1]]], dtype=torch.float64).log()
TOP = TopLogits(TEACHER[..., [0, 2]], torch.tensor([[[0, 2]]]))


def logits(classes=9, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(2, 4, classes, generator=generator, dtype=dtype) for _ in "st")
    target = torch.randint(0, classes, (2, 4), generator=generator)
    target[0, 1] = -100
    return student.requires_grad_(), teacher, target


def test_the_largest_log_probabilities():
    _, teacher, _ = logits()
    values, indices = top_logits(teacher, 3)
    log_p = log_softmax(teacher.numpy(), axis=-1)
    for text, row in [(0, 0), (1, 3)]:
        order = sorted(range(9), key=lambda each: -teacher[text, row, each])[:3]
        assert indices[text, row].tolist() == order
        assert values[text, row].tolist() == pytest.approx(log_p[text, row, order].tolist())
    with pytest.raises(InputError, match="k is 10"):
        top_logits(teacher, 10)
    assert top_logits(teacher.half(), 2).values.dtype == torch.float32


def test_kd_with_a_bucket_by_hand():
    """Teacher .5, .3 and .2 for the rest; student .2, .1 and .7."""
    expected = 0.5 * math.log(0.5 / 0.2) + 0.3 * math.log(0.3 / 0.1) + 0.2 * math.log(0.2 / 0.7)
    found = TokenLoss(KDLoss(alpha=1.0, temperature=1.0))(STUDENT, TOP)
    assert found.item() == pytest.approx(expected)


def test_kd_without_the_rest_by_hand():
    """Teacher .5 : .3, student .2 : .1, each as if there were nothing else."""
    expected = 5 / 8 * math.log((5 / 8) / (2 / 3)) + 3 / 8 * math.log((3 / 8) / (1 / 3))
    found = TokenLoss(KDLoss(alpha=1.0, temperature=1.0), tail="drop")(STUDENT, TOP)
    assert found.item() == pytest.approx(expected)


def test_pearson_by_hand():
    """Without standardisation: r of (.5, .3, .2) and (.2, .1, .7), a loss of 1 - r times its weight."""
    method = CMKDLoss(
        alpha=1.0, pearson_input="softmax", difficulty="constant", constant_weight=0.0, rank_softness=0.1
    )
    # Deviations from 1/3 in thirtieths: (5, -1, -4) and (-4, -7, 11).
    r = (5 * -4 + -1 * -7 + -4 * 11) / math.sqrt((25 + 1 + 16) * (16 + 49 + 121))
    assert TokenLoss(method)(STUDENT, TOP).item() == pytest.approx(1 - r)


def test_spearman_by_hand():
    """Ranks of the teacher (3, 2, 1) with the rest last; of the student (2, 1, 3): r = -1/2."""
    method = SpearmanLoss(alpha=1.0, rank_softness=1e-3)
    assert TokenLoss(method)(STUDENT, TOP).item() == pytest.approx(1.5, abs=0.01)
    three = TopLogits(TEACHER[..., [0, 1, 2]], torch.tensor([[[0, 1, 2]]]))
    found = TokenLoss(method, tail="drop")(STUDENT, three).item()
    rho = stats.spearmanr([0.5, 0.1, 0.3], [0.2, 0.4, 0.1]).statistic
    assert found == pytest.approx(1 - rho, abs=0.01)


@pytest.mark.parametrize("tail", ["bucket", "drop"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_all_classes_are_the_whole_teacher(method, tail):
    student, teacher, target = logits()
    if tail == "drop" and isinstance(method, (DKDLoss, NKDLoss)):
        return  # has no place for the label
    expected = TokenLoss(method)(student, teacher, target)
    (slope,) = torch.autograd.grad(expected, student)
    found = TokenLoss(method, chunk=3, tail=tail)(student, top_logits(teacher, 9), target)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, student)[0], slope)


@pytest.mark.parametrize("method", [CMKDLoss(), DISTLoss(gamma=0.0), DKDLoss(), KDLoss()])
def test_chunks_do_not_change_it(method):
    student, teacher, target = logits()
    top = top_logits(teacher, 4)
    expected = TokenLoss(method)(student, top, target)
    found = TokenLoss(method, chunk=2)(student, top, target)
    torch.testing.assert_close(found, expected)
    slopes = [torch.autograd.grad(each, student)[0] for each in (found, expected)]
    torch.testing.assert_close(*slopes)
    assert (slopes[0] != 0)[target != -100].all()  # the bucket reaches every class


def test_a_bucket_bounds_the_divergence_from_below():
    """Putting classes together can only lose: the more of them are given, the more is seen."""
    student, teacher, target = logits()
    method = KDLoss(alpha=1.0, temperature=1.0)
    found = [TokenLoss(method)(student, top_logits(teacher, k), target).item() for k in range(1, 10)]
    assert all(less <= more + 1e-12 for less, more in itertools.pairwise(found))
    assert found[-1] == pytest.approx(TokenLoss(method)(student, teacher, target).item())


def test_the_others_get_no_gradient_where_they_are_dropped():
    student, teacher, _ = logits()
    top = top_logits(teacher, 3)
    TokenLoss(PearsonLoss(), tail="drop")(student, top).backward()
    given = torch.zeros_like(student, dtype=torch.bool).scatter(-1, top.indices, True)
    assert (student.grad[~given] == 0).all()
    assert (student.grad[given] != 0).all()


def test_logits_do_where_the_rest_is_dropped():
    student, teacher, _ = logits()
    values, indices = top_logits(teacher, 4)
    expected = TokenLoss(KDLoss(), tail="drop")(student, TopLogits(values, indices))
    found = TokenLoss(KDLoss(), tail="drop")(student, TopLogits(values + 7, indices))
    torch.testing.assert_close(found, expected)


def test_a_label_that_is_not_among_them_is_in_the_bucket():
    """DKD: the share of the label is the bucket's, .2 of the teacher and .7 of the student."""
    method = DKDLoss(temperature=1.0, alpha=1.0, beta=0.0)
    expected = 0.2 * math.log(0.2 / 0.7) + 0.8 * math.log(0.8 / 0.3)
    for label in (1, 3):
        found = TokenLoss(method)(STUDENT, TOP, torch.tensor([[label]]))
        assert found.item() == pytest.approx(expected)
    among = 0.3 * math.log(0.3 / 0.1) + 0.7 * math.log(0.7 / 0.9)
    assert TokenLoss(method)(STUDENT, TOP, torch.tensor([[2]])).item() == pytest.approx(among)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_teacher_without_doubt_leaves_a_finite_rest(dtype):
    """All is on one class, to rounding, and a little more than all."""
    student = torch.randn(1, 3, 50, dtype=dtype).requires_grad_()
    top = TopLogits(
        torch.tensor([[[1e-6, -20.0, -30.0]]]).expand(1, 3, 3).to(dtype), torch.arange(3).expand(1, 3, 3)
    )
    for method in (KDLoss(), CMKDLoss(), PearsonLoss()):
        loss = TokenLoss(method)(student, top)
        (slope,) = torch.autograd.grad(loss, student)
        assert loss.isfinite()
        assert slope.isfinite().all()


INDICES = torch.tensor([[[0, 2]]])
VALUES = TEACHER[..., [0, 2]]
BAD = {
    "shapes": (
        TopLogits(VALUES, INDICES[..., :1]),
        r"values have shape \(1, 1, 2\), its indices \(1, 1, 1\)",
    ),
    "positions": (TopLogits(VALUES[0], INDICES[0]), r"have to be \(1, 1\) and one dimension more"),
    "float indices": (TopLogits(VALUES, VALUES), "its indices are torch.float64|indices torch.float64"),
    "too many": (TopLogits(torch.zeros(1, 1, 5), torch.zeros(1, 1, 5).long()), "gives 5 of 4 classes"),
    "outside": (TopLogits(VALUES, INDICES + 2), "index 4 is outside the student's 4 classes"),
    "padding": (TopLogits(VALUES, INDICES - 1), "index -1 is outside"),
    "twice": (TopLogits(VALUES, INDICES * 0), "name a class twice"),
    "logits": (TopLogits(VALUES + 3, INDICES), "add up to 16.07: tail 'bucket' needs log-probabilities"),
    "device": (TopLogits(VALUES.to("meta"), INDICES), "values are on meta"),
}


@pytest.mark.parametrize(("top", "message"), BAD.values(), ids=BAD)
def test_what_does_not_fit_is_refused(top, message):
    with pytest.raises(InputError, match=message):
        TokenLoss(KDLoss())(STUDENT, top)


def test_one_class_alone_says_nothing():
    with pytest.raises(InputError, match="gives 1 of 4 classes: tail 'drop' takes 2 to 4"):
        TokenLoss(KDLoss(), tail="drop")(STUDENT, TopLogits(VALUES[..., :1], INDICES[..., :1]))


@pytest.mark.parametrize("method", [DISTLoss(), MLKDLoss(), CMKDLoss(intra_weight=1.0), torch.nn.MSELoss()])
def test_columns_of_other_classes_are_not_compared(method):
    """The first class that the teacher gives is another one at every token."""
    student, teacher, _ = logits()
    with pytest.raises(InputError, match=f"{type(method).__name__} looks across the tokens"):
        TokenLoss(method)(student, top_logits(teacher, 4))


@pytest.mark.parametrize("method", [DKDLoss(), NKDLoss(), CMKDLoss(difficulty="teacher_ce")])
@pytest.mark.parametrize("labelled", [True, False])
def test_a_loss_that_reads_labels_has_none_where_the_rest_is_dropped(method, labelled):
    student, teacher, target = logits()
    name = type(method).__name__
    with pytest.raises(InputError, match=rf"{name} reads the labels.*tail 'drop'.*Take tail 'bucket'"):
        TokenLoss(method, tail="drop")(student, top_logits(teacher, 4), target if labelled else None)
    assert TokenLoss(method, tail="drop")(student, teacher, target).isfinite()  # all classes: nothing to drop

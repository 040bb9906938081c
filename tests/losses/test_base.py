import pytest
import torch
from torch import nn

from cmkd.errors import InputError
from cmkd.losses import (
    CMKDLoss,
    CTKDLoss,
    DistillationLoss,
    DISTLoss,
    DKDLoss,
    KDLoss,
    KendallLoss,
    ListMLELoss,
    MLKDLoss,
    NKDLoss,
    PearsonLoss,
    SpearmanLoss,
    TTMLoss,
    WTTMLoss,
    available,
)
from tests.losses import references

# Every method there is, by its defaults, but the one that reads no teacher.
LOSSES = [kind() for kind in available().values() if kind.reads_teacher] + [CMKDLoss(intra_weight=0.5)]
losses = pytest.mark.parametrize("distill", LOSSES, ids=lambda distill: type(distill).__name__)


def long(*values):
    return torch.tensor(values, dtype=torch.int64)


BAD_INPUT = {
    "class counts": (
        torch.zeros(2, 100),
        torch.zeros(2, 10),
        None,
        r"teacher has 10 classes, student 100 \(teacher logits \(2, 10\), student logits \(2, 100\)\)",
    ),
    "batch": (torch.zeros(2, 3), torch.zeros(4, 3), None, r"\(4, 3\).*\(2, 3\).*same batch"),
    "positions": (torch.zeros(2, 3, 4), torch.zeros(2, 3, 8), None, r"shapes differ.*same resolution"),
    "device": (
        torch.zeros(2, 3),
        torch.zeros(2, 3, device="meta"),
        None,
        r"teacher.*meta.*student.*cpu.*\.to\(",
    ),
    "integer logits": (long([1, 2]), torch.zeros(1, 2), None, r"student logits have dtype torch\.int64"),
    "model output": ({"logits": 1}, torch.zeros(1, 2), None, r"student logits are a dict.*output\.logits"),
    "one dimension": (torch.zeros(3), torch.zeros(3), None, r"shape \(3,\): expected \(N, C\)"),
    "one class": (torch.zeros(4, 1), torch.zeros(4, 1), None, r"shape \(4, 1\).*1 class.*two or more"),
    "empty batch": (torch.zeros(0, 3), torch.zeros(0, 3), None, r"shape \(0, 3\), which is empty"),
    "empty map": (torch.zeros(2, 3, 0), torch.zeros(2, 3, 0), None, r"shape \(2, 3, 0\), which is empty"),
    "NaN student": (
        torch.tensor([[0.0, torch.nan]]),
        torch.zeros(1, 2),
        None,
        r"student.*NaN.* 1 of 2 places",
    ),
    "infinite teacher": (
        torch.zeros(1, 2),
        torch.tensor([[torch.inf, -torch.inf]]),
        None,
        r"teacher.*infinity in 2 of 2 places",
    ),
    "target shape": (torch.zeros(2, 3), torch.zeros(2, 3), long(0), r"target has shape \(1,\).*need.*\(2,\)"),
    "one-hot target": (
        torch.zeros(2, 3),
        torch.zeros(2, 3),
        torch.eye(2, 3),
        r"torch\.float32.*torch\.int64",
    ),
    "list target": (torch.zeros(2, 3), torch.zeros(2, 3), [0, 1], r"target has type list"),
    "target device": (
        torch.zeros(1, 3),
        torch.zeros(1, 3),
        long(0).to("meta"),
        r"target is on meta, logits on cpu",
    ),
    "target too large": (
        torch.zeros(2, 3),
        torch.zeros(2, 3),
        long(0, 3),
        r"target 3 is outside the 3 classes",
    ),
    "ignore index": (torch.zeros(2, 3), torch.zeros(2, 3), long(0, -100), r"target -100.*ignore index"),
}


@pytest.mark.parametrize(("student", "teacher", "target", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
@losses
def test_bad_input_is_named_with_the_remedy(distill, student, teacher, target, message):
    if target is None:  # some need labels, and none minds them
        target = torch.zeros(len(student), dtype=torch.int64)
    with pytest.raises(InputError, match=message):
        distill(student, teacher, target)


@losses
def test_a_loss_says_whether_it_reads_the_labels(distill, make_case):
    case = make_case()
    if distill.reads_target:
        with pytest.raises(InputError, match="target is None"):
            distill(*case[:2])
    else:
        torch.testing.assert_close(distill(*case[:2]), distill(*case))


@losses
def test_positions_equal_flattened_rows(distill, make_case):
    case = make_case(samples=3, classes=6, positions=(2, 4))
    rows = [x.movedim(1, -1).reshape(-1, 6) for x in case[:2]]
    torch.testing.assert_close(distill(*case), distill(*rows, case.target.reshape(-1)))


@losses
def test_reductions_agree(distill, make_case):
    case = make_case(samples=3, classes=6, positions=(2, 4))
    by_reduction = {}
    for reduction in ("none", "mean", "sum"):
        module = type(distill)(**{**distill.options, "reduction": reduction})
        by_reduction[reduction] = module(*case)
    assert by_reduction["none"].shape == (3, 2, 4)
    torch.testing.assert_close(by_reduction["none"].mean(), by_reduction["mean"])
    torch.testing.assert_close(by_reduction["none"].sum(), by_reduction["sum"])
    torch.testing.assert_close(by_reduction["mean"], distill(*case))


@losses
def test_gradient_is_the_true_one(distill, make_case):
    case = make_case(samples=3, classes=6)
    student = case.student.requires_grad_()
    torch.autograd.gradcheck(lambda s: distill(s, case.teacher, case.target), student)


@losses
def test_teacher_gets_no_gradient(distill, case):
    student, teacher = case.student.requires_grad_(), case.teacher.requires_grad_()
    distill(student, teacher, case.target).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", [CTKDLoss, DISTLoss, DKDLoss, KDLoss, MLKDLoss, PearsonLoss])
def test_a_perfect_student_has_nothing_left_to_learn(kind, case):
    assert abs(kind()(case.teacher, case.teacher, case.target)) < 1e-9


@pytest.mark.parametrize("kind", [CMKDLoss, SpearmanLoss])
def test_a_perfect_student_has_little_left_to_learn(kind, case):
    """A soft rank differs from the exact one."""
    distill = kind()
    assert abs(distill(case.teacher, case.teacher, case.target)) < 0.02 * distill.alpha


# MLKD has it on one of its levels only.
@pytest.mark.parametrize(
    "kind", [CTKDLoss, DISTLoss, DKDLoss, KDLoss, KendallLoss, ListMLELoss, NKDLoss, TTMLoss, WTTMLoss]
)
def test_logit_standardization_is_that_of_the_input(kind, case):
    student, teacher = (
        torch.from_numpy(references.standardized(x.numpy())) for x in (case.student, case.teacher)
    )
    expected = kind()(student, teacher, case.target)
    torch.testing.assert_close(kind(logit_standardization=True)(*case), expected)
    assert not torch.isclose(kind()(*case), expected)


def test_a_new_loss_shows_its_options_without_further_ado():
    class Mine(DistillationLoss):
        def __init__(self, *, power: float = 2.0) -> None:
            super().__init__()
            self.power = power

    assert repr(Mine(power=3.0)) == "Mine(power=3.0, reduction='mean')"
    assert Mine().task_weight == 1.0


def test_losses_are_modules_with_no_state_but_their_parameters():
    for distill in LOSSES:
        assert isinstance(distill, nn.Module)
        assert distill.state_dict().keys() == dict(distill.named_parameters()).keys()


SHIPPED = {
    **{kind: {"reduction": "sum"} for kind in available().values()},
    CMKDLoss: {"alpha": 3.0, "rank_method": "binned", "intra_weight": 0.5, "reduction": "sum"},
    KDLoss: {"temperature": 2.5, "alpha": 0.4, "reduction": "sum"},
    DISTLoss: {"tau": 1.5, "gamma": 0.5, "reduction": "sum"},
    DKDLoss: {"temperature": 3.0, "beta": 2.0, "reduction": "sum"},
}
shipped = pytest.mark.parametrize(
    ("parent", "options"), SHIPPED.items(), ids=lambda x: getattr(x, "__name__", "")
)


@shipped
def test_a_subclass_may_add_an_argument(parent, options, case):
    class Mine(parent):
        def __init__(self, warmup=5, *rest, **kwargs):
            super().__init__(**kwargs)
            self.warmup = warmup

    mine, plain = Mine(7, **options), parent(**options)
    assert torch.equal(mine(*case), plain(*case))
    assert mine.options == {"warmup": 7, **plain.options}
    assert "warmup=7" in repr(mine)


@shipped
def test_a_subclass_may_narrow_the_arguments_and_keep_one_to_itself(parent, options, case):
    class Mine(parent):
        def __init__(self, seed=0):
            super().__init__(**options)

    class Further(Mine):
        pass

    plain = parent(**options)
    for mine in (Mine(), Further(seed=1)):
        assert torch.equal(mine(*case), plain(*case))
        assert mine.options == plain.options


EACH_FOR_ITSELF = [
    KDLoss(),
    DKDLoss(),
    NKDLoss(),
    TTMLoss(),
    WTTMLoss(),
    CTKDLoss(),
    KendallLoss(),
    ListMLELoss(),
    PearsonLoss(),
    SpearmanLoss(),
    MLKDLoss(batch_weight=0.0, class_weight=0.0),
    DISTLoss(gamma=0.0),
    CMKDLoss(difficulty_scale="none"),
    CMKDLoss(difficulty="constant"),
]
TOGETHER = [
    DISTLoss(),
    MLKDLoss(),
    MLKDLoss(batch_weight=0.0),
    MLKDLoss(class_weight=0.0),
    CMKDLoss(),
    CMKDLoss(difficulty_scale="batch_standardize"),
    CMKDLoss(difficulty="constant", intra_weight=1.0),
]


@pytest.mark.parametrize("distill", EACH_FOR_ITSELF + TOGETHER, ids=repr)
def test_a_loss_says_whether_samples_depend_on_each_other(distill, case):
    alone = torch.stack([distill(*(x[[i]] for x in case)) for i in range(len(case.target))])
    assert torch.allclose(alone.mean(), distill(*case)) != distill.across_batch
    assert distill.across_batch == (distill in TOGETHER)

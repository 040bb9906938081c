import copy
import inspect
import re
import warnings

import pytest
import torch
from scipy import stats

import cmkd.losses.watch as watch_module
from cmkd.losses import CMKDLoss, cmkd_loss
from cmkd.losses.watch import SpearmanWatch


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch):
    """The function form counts its calls in one place per process."""
    monkeypatch.setattr(watch_module, "_shared", {})


def messages(distill, *calls):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for arguments in calls:
            distill(*arguments)
    return [str(warning.message) for warning in caught]


def test_one_block_warns_once_with_the_measured_figures(make_case):
    case = make_case(samples=32, classes=100)
    distill = CMKDLoss(rank_method="l2", rank_softness=1e4)
    (message,) = messages(distill, *[case[:2]] * 5)
    exact = sum(stats.pearsonr(stats.rankdata(s), s).statistic for s in case.student.numpy()) / 32
    assert message.startswith(
        f"soft ranks correlate 1.00000 with the logits themselves, exact ranks only {exact:.5f}"
    )
    assert re.search(r"lower rank_softness \(now 10000; the default for 'l2' and 100 classes is 3\)", message)


@pytest.mark.parametrize("classes", [3, 10, 100, 1000])
@pytest.mark.parametrize("method", ["laplace", "binned", "l2"])
def test_defaults_do_not_warn(make_case, method, classes):
    case = make_case(samples=64, classes=classes, dtype=torch.float32)
    assert messages(CMKDLoss(rank_method=method), case[:2]) == []


@pytest.mark.parametrize(("method", "softness"), [("laplace", 100.0), ("l2", 100.0)])
def test_torchsort_like_softness_warns(make_case, method, softness):
    case = make_case(samples=32, classes=100)
    assert len(messages(CMKDLoss(rank_method=method, rank_softness=softness), case[:2])) == 1


def test_evenly_spaced_or_constant_logits_prove_nothing():
    straight = torch.arange(10.0).repeat(4, 1)
    teacher = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    distill = CMKDLoss(rank_method="l2", rank_softness=1e4)
    assert messages(distill, (straight, teacher), (torch.zeros(4, 10), teacher)) == []


def test_looks_at_calls_that_are_powers_of_two(make_case):
    student = make_case(samples=32, classes=30).student
    watch = SpearmanWatch()
    looked = []
    for call in range(1, 10):
        softness = 1e4 if call >= 5 else 0.1  # affine from call 5 on
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            watch.look(student, method="l2", softness=softness)
        looked += [call] * len(caught)
    assert looked == [8]


@pytest.mark.parametrize(
    ("shape", "mask"), [((6, 100, 40, 30), False), ((6, 100, 40, 30), True), ((400, 100, 3), True)]
)
def test_dense_logits_are_judged_by_their_first_rows_alone(shape, mask, monkeypatch):
    """655 rows of 100 classes, of 7,200 and of 1,200: within one picture, and of 219 sequences."""
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(shape, generator=generator)
    mask = torch.rand(shape, generator=generator) < 0.9 if mask else None
    options = {"method": "l2", "softness": 1e4}
    by_hand = [None if x is None else x.movedim(1, -1).reshape(-1, 100)[:655] for x in (student, mask)]
    expected = messages(lambda: SpearmanWatch().look(by_hand[0], mask=by_hand[1], **options), ())
    copied = []
    as_rows = watch_module.as_rows
    monkeypatch.setattr(watch_module, "as_rows", lambda x: copied.append(x.numel()) or as_rows(x))
    found = messages(lambda: SpearmanWatch().look(student, mask=mask, **options), ())
    assert found == expected
    assert len(found) == 1
    assert max(copied) < 660 * 100


def test_every_module_warns_for_itself(make_case):
    case = make_case(samples=32, classes=100)
    first = CMKDLoss(rank_method="l2", rank_softness=1e4)
    second = copy.deepcopy(first)
    assert [len(messages(module, case[:2], case[:2])) for module in (first, second)] == [1, 1]


def test_function_warns_once_per_method_and_number_of_classes(make_case):
    def count(classes, method, softness):
        case = make_case(samples=32, classes=classes)
        options = {"rank_method": method, "rank_softness": softness}
        return len(messages(lambda s, t: cmkd_loss(s, t, **options), case[:2], case[:2]))

    # Two classes, which warn for another reason, silence nobody; a softness that is annealed warns once.
    settings = [(2, "l2", 1.0), (100, "l2", 2e4), (100, "l2", 1e4), (100, "laplace", 1e2), (30, "l2", 2e4)]
    assert [count(*setting) for setting in settings] == [1, 1, 0, 1, 1]


def test_an_annealed_softness_leaves_nothing_behind_and_is_not_looked_at_in_every_step(make_case):
    case = make_case(classes=30)
    for step in range(1, 10):
        cmkd_loss(case.student, case.teacher, rank_softness=0.3 / step)
    ((key, watch),) = watch_module._shared.items()
    assert key == ("binned", 30)
    assert watch.calls == 9


def test_the_warning_points_at_the_users_line(make_case):
    student, teacher, _ = make_case(samples=32, classes=100)
    options = {"rank_method": "l2", "rank_softness": 1e4}
    distill = CMKDLoss(**options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        line = inspect.currentframe().f_lineno
        cmkd_loss(student, teacher, **options)
        distill(student, teacher)
    assert [(warning.filename, warning.lineno) for warning in caught] == [
        (__file__, line + 1),
        (__file__, line + 2),
    ]


@pytest.mark.parametrize("softness", [None, 0.02])
def test_a_masked_class_is_named_where_the_softness_is_not_to_blame(make_case, softness):
    student, teacher, _ = make_case(samples=32, classes=100)
    student[:, 5] = -1e5
    (message,) = messages(CMKDLoss(rank_softness=softness), (student, teacher))
    assert re.search(r"rank_softness \(0\.\d+\) is no larger than the default.*masked.*with a mask", message)
    assert "lower rank_softness" not in message


@pytest.mark.skipif(not torch.cuda.is_available(), reason="captures a CUDA graph")
def test_does_not_look_while_a_graph_is_captured(make_case):
    case = make_case(samples=8, classes=30)
    student = case.student.cuda()
    watch = SpearmanWatch()
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        watch.look(student, method="l2", softness=3.0)
    assert watch.calls == 0


def test_two_classes_warn_once_with_advice(make_case):
    case = make_case(classes=2)
    (message,) = messages(CMKDLoss(), case, case, case)
    assert "two classes" in message
    assert "KDLoss" in message

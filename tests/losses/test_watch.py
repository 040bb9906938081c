import copy
import re
import warnings

import pytest
import torch
from scipy import stats

from cmkd.losses import CMKDLoss, cmkd_loss
from cmkd.losses.watch import SpearmanWatch


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


def test_looks_at_calls_that_are_powers_of_two(make_case, monkeypatch):
    good, bad = make_case(classes=30), make_case(classes=30)
    watch = SpearmanWatch()
    looked = []
    for call in range(1, 10):
        before = watch.warned
        soft = bad.student if call >= 5 else torch.zeros_like(good.student)  # affine from call 5 on
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            watch.look(soft, bad.student, method="l2", softness=3.0)
        assert not (before and caught)
        looked += [call] * len(caught)
    assert looked == [8]


def test_every_module_warns_for_itself(make_case):
    case = make_case(samples=32, classes=100)
    first = CMKDLoss(rank_method="l2", rank_softness=1e4)
    second = copy.deepcopy(first)
    assert [len(messages(module, case[:2], case[:2])) for module in (first, second)] == [1, 1]


def test_function_warns_once_per_configuration(make_case):
    case = make_case(samples=32, classes=100)
    counts = [
        len(
            messages(lambda s, t, k=k: cmkd_loss(s, t, rank_method="l2", rank_softness=k), case[:2], case[:2])
        )
        for k in (2e4, 3e4, 2e4)
    ]
    assert counts == [1, 1, 0]


def test_two_classes_warn_once_with_advice(make_case):
    case = make_case(classes=2)
    (message,) = messages(CMKDLoss(), case, case, case)
    assert "two classes" in message
    assert "KDLoss" in message

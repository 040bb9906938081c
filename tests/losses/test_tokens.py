"""Losses on tokens: equal to the plain call on those that count, and to a reference, whatever the chunks."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

from cmkd import CMKDLoss, DISTLoss, DKDLoss, InputError, KDLoss, TokenLoss
from cmkd.losses import CTKDLoss, NKDLoss, PearsonLoss, SpearmanLoss, available
from tests.losses import references

IGNORED = -100
METHODS = {
    **{name: kind() for name, kind in available().items()},
    "student_entropy": CMKDLoss(difficulty="student_entropy", difficulty_scale="batch_standardize"),
    "teacher_ce": CMKDLoss(difficulty="teacher_ce", hard_samples="values"),
    "raw": CMKDLoss(difficulty_scale="none", pearson_input="softmax"),
    "constant": CMKDLoss(difficulty="constant"),
    "intra": CMKDLoss(intra_weight=0.5),
}
methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def texts(texts=3, length=5, classes=11, dtype=torch.float64, seed=0):
    """Logits (N, T, V) and targets; six tokens of three texts do not count, nor do their logits."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(texts, length, classes, generator=generator, dtype=dtype) for _ in "st")
    target = torch.randint(0, classes, (texts, length), generator=generator)
    target[0, 3:], target[1, 1], target[2, :3] = IGNORED, IGNORED, IGNORED
    out = target == IGNORED
    student[out], teacher[out] = torch.nan, torch.inf
    return student.requires_grad_(), 2 * teacher, target


def plain(method, student, teacher, target):
    """The loss of the rows that count, without any of the code that is tested."""
    rows = [(n, t) for n in range(len(target)) for t in range(target.shape[1]) if target[n, t] != IGNORED]
    mine, theirs = (torch.stack([x[place] for place in rows]) for x in (student, teacher))
    return method(mine, theirs, torch.stack([target[place] for place in rows]))


@methods
@pytest.mark.parametrize("chunk", [1, 2, 4, None])
def test_value_and_gradient_are_those_of_the_tokens_that_count(method, chunk):
    student, teacher, target = texts()
    expected = plain(method, student, teacher, target)
    (slope,) = torch.autograd.grad(3 * expected, student)
    found = TokenLoss(method, chunk=chunk)(student, teacher, target)
    (ours,) = torch.autograd.grad(3 * found, student)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours, slope)
    assert (ours[target == IGNORED] == 0).all()
    with torch.no_grad():
        torch.testing.assert_close(TokenLoss(method, chunk=chunk)(student, teacher, target), expected)


def test_kd_is_that_of_the_reference():
    student, teacher, target = texts()
    kept = (target != IGNORED).numpy()
    rows = [x.detach().numpy()[kept] for x in (student, teacher)]
    expected = references.kd(*rows, temperature=2.0, alpha=0.5).mean()
    loss = TokenLoss(KDLoss(temperature=2.0, alpha=0.5), chunk=2)
    assert loss(student, teacher, target).item() == pytest.approx(expected)


def test_the_difficulty_of_a_token_is_ranked_among_all_that_count():
    """Nine tokens in chunks of two: the ranks of the entropies are 1 to 9, not 1 and 2."""
    student, teacher, target = texts()
    kept = (target != IGNORED).numpy()
    mine, theirs = (x.detach().numpy()[kept] for x in (student, teacher))
    values, ranks = references.cmkd_terms(mine, theirs, knots=9)
    weight = (stats.rankdata(references.normalized_entropy(theirs)) - 0.5) / len(mine)
    expected = 5.0 * ((1 - weight) * values + weight * ranks)
    loss = TokenLoss(CMKDLoss(alpha=5.0, rank_softness=0.25, reduction="none"), chunk=2)
    found = loss(student, teacher, target)
    np.testing.assert_allclose(found.detach().numpy()[kept], expected, rtol=1e-6)
    assert (found[target == IGNORED] == 0).all()


@pytest.mark.parametrize("method", [KDLoss, CMKDLoss, DISTLoss])
def test_reductions_agree(method):
    student, teacher, target = texts()
    each = TokenLoss(method(reduction="none"), chunk=2)(student, teacher, target)
    assert each.shape == target.shape
    total = TokenLoss(method(reduction="sum"), chunk=2)(student, teacher, target)
    mean = TokenLoss(method(reduction="mean"), chunk=2)(student, teacher, target)
    count = int((target != IGNORED).sum())
    torch.testing.assert_close(each.sum(), total)
    torch.testing.assert_close(mean * count, total)


@pytest.mark.parametrize("chunk", [2, None])
def test_each_token_passes_on_its_own_share_of_the_gradient(chunk):
    student, teacher, target = texts()
    factor = torch.rand(target.shape, dtype=torch.float64)
    each = TokenLoss(KDLoss(reduction="none"), chunk=chunk)(student, teacher, target)
    (ours,) = torch.autograd.grad((factor * each).sum(), student)
    kept = target != IGNORED
    rows = KDLoss(reduction="none")(student[kept], teacher[kept], target[kept])
    (slope,) = torch.autograd.grad((factor[kept] * rows).sum(), student)
    torch.testing.assert_close(ours, slope)


def test_a_second_backward_pass_gives_the_same_gradient():
    student, teacher, target = texts()
    loss = TokenLoss(chunk=2)(student, teacher, target)
    first, second = (torch.autograd.grad(loss, student, retain_graph=True)[0] for _ in "12")
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_mask_and_an_ignored_target_are_one_thing():
    student, teacher, target = texts()
    mask = target != IGNORED
    by_target = TokenLoss()(student, teacher, target)
    torch.testing.assert_close(TokenLoss()(student, teacher, mask=mask), by_target)
    torch.testing.assert_close(TokenLoss()(student, teacher, target, mask=mask), by_target)
    one = torch.zeros_like(mask)
    one[2, 4] = True
    alone = TokenLoss(KDLoss())(student, teacher, target, mask=one)
    torch.testing.assert_close(alone, KDLoss()(student[2, 4:], teacher[2, 4:]))


def test_another_ignore_index():
    student, teacher, target = texts()
    other = torch.where(target == IGNORED, 255, target)
    expected = TokenLoss(DKDLoss())(student, teacher, target)
    torch.testing.assert_close(TokenLoss(DKDLoss(), ignore_index=255)(student, teacher, other), expected)


@pytest.mark.parametrize("method", [NKDLoss(), CMKDLoss()])
def test_shifted_labels_belong_to_the_position_before(method):
    """As the loss of a causal language model: logits from 0 to T - 2 against labels from 1 on."""
    student, teacher, _ = texts()
    student, teacher = student.detach().nan_to_num(1.0), teacher.nan_to_num(posinf=2.0)
    student[..., 0] += 1
    labels = torch.randint(0, 11, (3, 5), generator=torch.Generator().manual_seed(1))
    labels[0, :2], labels[1, 4] = IGNORED, IGNORED
    expected = TokenLoss(method)(
        student[:, :-1].contiguous(), teacher[:, :-1].contiguous(), labels[:, 1:].contiguous()
    )
    found = TokenLoss(method, shift=True, chunk=3)(student, teacher, labels)
    torch.testing.assert_close(found, expected)
    if isinstance(method, CMKDLoss):
        by_mask = TokenLoss(method, shift=True)(student, teacher, mask=labels != IGNORED)
        torch.testing.assert_close(by_mask, expected)


def test_rows_without_texts_and_more_dimensions():
    student, teacher, target = texts()
    student, teacher = student.detach().nan_to_num(1.0), teacher.nan_to_num(posinf=2.0)
    whole = TokenLoss(chunk=4)(student, teacher, target)
    flat = TokenLoss(chunk=4)(student.reshape(15, 11), teacher.reshape(15, 11), target.reshape(15))
    deep = [x.reshape(3, 5, 1, 11) for x in (student, teacher)]
    torch.testing.assert_close(flat, whole)
    torch.testing.assert_close(TokenLoss(chunk=4)(*deep, target.unsqueeze(-1)), whole)


@pytest.mark.parametrize("method", [KDLoss(), KDLoss(reduction="none"), CMKDLoss(), DISTLoss()])
def test_no_token_gives_zero(method):
    student, teacher, target = texts()
    loss = TokenLoss(method)(student, teacher, torch.full_like(target, IGNORED))
    assert (loss == 0).all()
    loss.sum().backward()
    assert (student.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_computed_in_float32(dtype):
    student, teacher, target = texts()
    student, teacher = (x.detach().to(dtype).requires_grad_() for x in (student, teacher))
    found = TokenLoss(KDLoss(), chunk=2)(student, teacher, target)
    kept = target != IGNORED
    expected = KDLoss()(student[kept].double(), teacher[kept].double())
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    (slope,) = torch.autograd.grad(expected, student)
    (ours,) = torch.autograd.grad(found, student)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, slope)


def test_float16_keeps_a_gradient_that_the_scale_of_mixed_precision_brings_back():
    """About 1e-9: half of the least number of float16 is 3e-8, and the scale comes after the loss."""
    student, teacher, target = texts()
    student, teacher = (x.detach().half().requires_grad_() for x in (student, teacher))
    method = KDLoss(alpha=1e-8)
    (65536 * TokenLoss(method, chunk=2)(student, teacher, target)).backward()
    wide = student.detach().double().requires_grad_()
    (65536 * plain(method, wide, teacher.double(), target)).backward()
    assert 1e-10 < wide.grad.abs().max() / 65536 < 1e-8
    torch.testing.assert_close(student.grad.double(), wide.grad, rtol=1e-2, atol=1e-7)


def test_under_autocast():
    student, teacher, target = texts(dtype=torch.float32)
    expected = TokenLoss(chunk=2)(student, teacher, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert TokenLoss(chunk=2)(student, teacher, target).item() == expected.item()


def test_a_loss_that_learns_gets_its_gradient():
    student, teacher, target = texts()
    method = CTKDLoss().double()
    TokenLoss(method, chunk=2)(student, teacher, target).backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in method.parameters())


def test_only_what_splits_is_split():
    seen = []

    class Counting(nn.Module):
        across_batch = False

        def forward(self, student, teacher, target=None):
            seen.append(len(student))
            return (student - teacher).square().mean()

    student, teacher, target = texts()
    own = Counting()
    found = TokenLoss(own, chunk=4)(student, teacher, target)
    assert seen == [4, 4, 1]
    kept = target != IGNORED
    torch.testing.assert_close(found, (student - teacher)[kept].square().mean())
    del seen[:]
    Counting.across_batch = True
    TokenLoss(own, chunk=4)(student, teacher, target)
    assert seen == [9]


def test_a_subclass_that_computes_itself_is_called_itself():
    class Doubled(CMKDLoss):
        def forward(self, student_logits, teacher_logits, target=None, **options):
            return 2 * super().forward(student_logits, teacher_logits, target, **options)

    student, teacher, target = texts()
    expected = 2 * TokenLoss(CMKDLoss())(student, teacher, target)
    torch.testing.assert_close(TokenLoss(Doubled(), chunk=2)(student, teacher, target), expected)


def test_a_student_of_tokens_learns_the_teachers_order():
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(2, 6, 40, generator=generator)
    student = torch.zeros(2, 6, 40).add_(0.01 * torch.randn(2, 6, 40, generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([student], lr=0.05)
    distill = TokenLoss(CMKDLoss(), chunk=5)
    for _ in range(100):
        optimizer.zero_grad()
        distill(student, teacher).backward()
        optimizer.step()
    rho = [
        stats.spearmanr(s, t).statistic
        for s, t in zip(student.detach().reshape(12, 40), teacher.reshape(12, 40), strict=True)
    ]
    assert min(rho) > 0.95


def test_what_it_tells_of_the_loss():
    loss = TokenLoss(KDLoss(alpha=0.7, reduction="sum"), shift=True)
    assert (loss.task_weight, loss.across_batch, loss.reduction) == (0.3, False, "sum")
    assert isinstance(TokenLoss().loss, CMKDLoss)
    assert "shift=True" in repr(loss)
    assert "Token" not in available()
    method = CTKDLoss()
    TokenLoss(method).set_epoch(2.0)
    TokenLoss(KDLoss()).set_epoch(2.0)


@pytest.mark.parametrize("method", [KDLoss(), PearsonLoss(), SpearmanLoss()])
def test_compiled_it_is_the_same(method):
    student, teacher, target = texts(dtype=torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(TokenLoss(method, chunk=2), backend="eager")
    expected = TokenLoss(method)(student, teacher, target)
    torch.testing.assert_close(compiled(student, teacher, target), expected)


LOGITS = torch.zeros(2, 3, 4)
BAD = {
    "no tensor": ((None, LOGITS), r"student logits are NoneType"),
    "one dimension": ((LOGITS[0, 0], LOGITS), r"student logits are \(4,\)"),
    "an output": ((LOGITS, {"logits": LOGITS}), "teacher logits are a dict: pass a tensor"),
    "another vocabulary": ((LOGITS, torch.zeros(2, 3, 5)), r"\(2, 3, 5\).*cut it: `logits\[\.\.\., :V\]`"),
    "target of one text": ((LOGITS, LOGITS, torch.zeros(3).long()), r"need torch.int64 \(2, 3\)"),
    "float target": ((LOGITS, LOGITS, torch.zeros(2, 3)), r"target is torch.float32 \(2, 3\)"),
    "class too large": ((LOGITS, LOGITS, torch.full((2, 3), 4)), "target 4 is outside the 4 classes"),
    "device of the teacher": ((LOGITS, LOGITS.to("meta")), "teacher logits are on meta"),
    "device of the target": ((LOGITS, LOGITS, torch.zeros(2, 3, device="meta").long()), "target is on meta"),
}


@pytest.mark.parametrize(("given", "message"), BAD.values(), ids=BAD)
def test_what_does_not_fit_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        TokenLoss(KDLoss())(*given)


@pytest.mark.parametrize("chunk", [1, None])
def test_a_label_that_is_no_class_is_named_whatever_the_chunks(chunk):
    method = TokenLoss(CMKDLoss(difficulty="teacher_ce"), chunk=chunk)
    with pytest.raises(InputError, match="target 4 is outside the 4 classes"):
        method(LOGITS, LOGITS, torch.full((2, 3), 4))


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_a_bad_token_counts_as_constant_where_values_are_not_looked_at(value, monkeypatch):
    """As on an accelerator: here, the checks and CMKD are told that somebody records them."""
    for module in ("functional.logits", "losses.cmkd_terms"):
        monkeypatch.setattr(f"cmkd.{module}.is_traced", lambda: True)
    student, teacher, target = texts()
    teacher[0, 1, 3] = value
    method = CMKDLoss(difficulty="teacher_ce")
    expected = TokenLoss(method)(student, teacher, target)
    found = TokenLoss(method, chunk=2)(student, teacher, target)
    assert expected.isfinite()
    torch.testing.assert_close(found, expected)
    slopes = [torch.autograd.grad(each, student)[0] for each in (found, expected)]
    torch.testing.assert_close(*slopes)


def test_masks_and_options_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=re.escape("mask is torch.int64 (2, 3)")):
        TokenLoss()(LOGITS, LOGITS, mask=torch.ones(2, 3).long())
    with pytest.raises(InputError, match="chunk is 0"):
        TokenLoss(chunk=0)
    with pytest.raises(InputError, match="pass an instance of a loss"):
        TokenLoss(KDLoss)
    with pytest.raises(InputError, match="tail"):
        TokenLoss(tail="ignore")
    with pytest.raises(InputError, match="NaN or infinity"):
        TokenLoss(KDLoss())(LOGITS + torch.nan, LOGITS)


def test_cross_entropy_ignores_the_same_tokens():
    """The other half of an objective: PyTorch's own, so that both means are over the same tokens."""
    student, teacher, target = texts()
    distill = TokenLoss(KDLoss(alpha=0.0, temperature=1.0))
    logits = student.detach().nan_to_num(0.0)
    task = F.cross_entropy(logits.flatten(0, 1), target.flatten())
    kept = target != IGNORED
    assert task.item() == pytest.approx(F.cross_entropy(logits[kept], target[kept]).item())
    assert distill(student, teacher, target).item() == 0

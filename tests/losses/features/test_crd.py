"""CRD: its value, its draws, and what it remembers."""

import numpy as np
import pytest
import torch
from scipy import stats

from cmkd.errors import InputError
from cmkd.losses.features import CRDLoss, crd
from tests.losses.features import references

IMAGES = 30
INDICES = torch.tensor([3, 29, 0, 11, 12, 7])
TARGET = torch.tensor([0, 1, 0, 2, 2, 1])


def built(vectors, images=IMAGES, *, trained_on=None, targets=None, **options):
    distill = CRDLoss(**{"width": 4, "negatives": 12, "temperature": 0.5, **options})
    distill.build(*vectors, num_samples=images, trained_on=trained_on, targets=targets)
    return distill


def embeddings(distill, vectors):
    found = []
    for part, outputs in zip((distill.of_student, distill.of_teacher), vectors, strict=True):
        x = part(outputs.features["a"]).detach().numpy()
        found.append(x / np.linalg.norm(x, axis=1, keepdims=True))
    return found


def test_value(vectors):
    distill = built(vectors)
    _, counts = distill._draw(INDICES, None)
    counts = counts.numpy()
    np.testing.assert_allclose(counts.sum(1), 12)
    banks = distill.student_bank.numpy().copy(), distill.teacher_bank.numpy().copy()
    expected = references.crd(*embeddings(distill, vectors), *banks, INDICES.tolist(), counts, 0.5)
    assert distill(*vectors, None, INDICES).item() == pytest.approx(0.8 * expected)


def test_what_is_remembered(vectors):
    distill = built(vectors, momentum=0.25)
    before = {name: value.numpy().copy() for name, value in distill.named_buffers()}
    distill(*vectors, TARGET, INDICES)
    for name, new in zip(("student_bank", "teacher_bank"), embeddings(distill, vectors), strict=True):
        expected = before[name]
        mixed = 0.25 * expected[INDICES] + 0.75 * new
        expected[INDICES] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
        np.testing.assert_allclose(getattr(distill, name), expected)
    assert distill.labels[INDICES].equal(TARGET)
    assert (distill.labels == -1).sum() == IMAGES - len(INDICES)


def test_evaluation_remembers_nothing(vectors):
    distill = built(vectors).eval()
    before = {name: value.clone() for name, value in distill.state_dict().items()}
    first, second = (distill(*vectors, TARGET, INDICES) for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(value, before[name]) for name, value in distill.state_dict().items())


def test_z_is_that_of_the_first_batch(vectors):
    distill = built(vectors)
    distill(*vectors, TARGET, INDICES)
    z = distill.log_z.clone()
    assert z.isfinite().all()
    distill(*vectors, TARGET, INDICES)
    assert torch.equal(distill.log_z, z)


@pytest.mark.parametrize("target", [TARGET, None])
def test_copying_what_is_drawn_is_the_same_as_scoring_everything(vectors, target, monkeypatch):
    values = []
    for limit in (crd._SCORES_ALL, 0):
        monkeypatch.setattr(crd, "_SCORES_ALL", limit)
        distill = built(vectors)
        losses = [distill(*vectors, target, INDICES) for _ in range(3)]
        gradient = torch.autograd.grad(sum(losses), vectors[0].features["a"])[0]
        values.append((torch.stack(losses), gradient, distill.student_bank))
    for scored, copied in zip(*values, strict=True):
        torch.testing.assert_close(scored, copied)


def test_negatives_are_drawn_evenly_from_other_classes(vectors):
    distill = built(vectors, negatives=5000)
    distill.labels = torch.arange(IMAGES) % 3
    _, counts = distill._draw(INDICES, TARGET)
    torch.testing.assert_close(counts.sum(1), torch.full((6,), 5000.0, dtype=torch.float64))
    for row, target in zip(counts, TARGET, strict=True):
        others = distill.labels != target
        others[INDICES[(counts == row).all(1)]] = False
        assert (row[~others] == 0).all()
        # a third of the draws was left out, and the others count the more for it
        assert stats.chisquare(row[others].numpy() * 2 / 3).pvalue > 1e-3


def test_every_step_draws_anew_and_a_resumed_run_the_same(vectors):
    distill = built(vectors)
    distill(*vectors, TARGET, INDICES)
    state = {name: value.clone() for name, value in distill.state_dict().items()}
    torch.manual_seed(0)
    expected = [distill(*vectors, TARGET, INDICES).item() for _ in range(3)]
    resumed = built(vectors, images=IMAGES)
    resumed.load_state_dict(state)
    torch.manual_seed(1)
    assert [resumed(*vectors, TARGET, INDICES).item() for _ in range(3)] == expected
    first = distill._draw(INDICES, None)[1]
    distill(*vectors, TARGET, INDICES)
    assert not torch.equal(distill._draw(INDICES, None)[1], first)


def test_the_backward_pass_after_the_update_sees_the_old_banks(vectors):
    """The update must not write where the backward pass still reads."""
    loss = built(vectors)(*vectors, TARGET, INDICES)
    frozen = built(vectors, momentum=1.0)(*vectors, TARGET, INDICES)
    x = vectors[0].features["a"]
    torch.testing.assert_close(torch.autograd.grad(loss, x), torch.autograd.grad(frozen, x))


def test_two_steps_may_share_a_backward_pass(vectors):
    """The first one's slope is that before its update, and the second one's that after it."""
    x = vectors[0].features["a"]
    distill = built(vectors)
    both = torch.autograd.grad(sum(distill(*vectors, TARGET, INDICES) for _ in range(2)), x)[0]
    distill = built(vectors)
    one_by_one = [torch.autograd.grad(distill(*vectors, TARGET, INDICES), x)[0] for _ in range(2)]
    torch.testing.assert_close(both, sum(one_by_one))


def test_what_is_held_out_is_as_if_it_were_not_there(vectors):
    """The same as on data of nothing but the images that are trained on, in another order."""
    part = torch.tensor([29, 4, 3, 0, 7, 15, 11, 12, 20, 21])
    distill = built(vectors, trained_on=part)
    small = built(vectors, images=len(part))
    assert len(distill.student_bank) == len(distill.teacher_bank) == len(part)
    place = torch.tensor([part.tolist().index(index) for index in INDICES.tolist()])
    for _ in range(3):
        assert torch.equal(distill(*vectors, TARGET, INDICES), small(*vectors, TARGET, place))
    assert torch.equal(distill.teacher_bank, small.teacher_bank)
    with pytest.raises(InputError, match=r"image 5 is none of those.*as trained_on"):
        distill(*vectors, TARGET, torch.tensor([3, 29, 0, 11, 5, 7]))


def test_classes_that_are_known_are_never_drawn_for_their_own(vectors):
    targets = torch.arange(IMAGES) % 3
    part = torch.arange(IMAGES).flip(0)[:20]
    distill = built(vectors, trained_on=part, targets=targets)
    rows = torch.arange(6)
    _, counts = distill._draw(rows, targets[part][rows])
    assert (counts[targets[part] == targets[part][rows, None]] == 0).all()
    assert (counts > 0).any(1).all()


def test_low_temperatures_do_not_overflow(vectors):
    distill = built(vectors, temperature=1e-3).float()
    student, teacher = (
        outputs._replace(features={"a": outputs.features["a"].detach().float().requires_grad_()})
        for outputs in vectors
    )
    loss = distill(student, teacher, TARGET, INDICES)
    loss.backward()
    assert loss.isfinite()
    assert student.features["a"].grad.isfinite().all()


def test_a_class_that_fills_the_data_leaves_no_negatives(vectors):
    distill = built(vectors)
    distill.labels = torch.zeros(IMAGES, dtype=torch.int64)
    loss = distill(*vectors, torch.zeros(6, dtype=torch.int64), INDICES)
    assert loss.isfinite()
    assert loss > 0


def test_bad_input(vectors, make_outputs):
    with pytest.raises(InputError, match=r"remembers every training image: pass build their number"):
        CRDLoss().build(*vectors)
    distill = built(vectors)
    with pytest.raises(InputError, match=r"pass indices"):
        distill(*vectors, TARGET)
    with pytest.raises(InputError, match=r"go from 0 to 30, but there are 30 images"):
        distill(*vectors, TARGET, torch.tensor([0, 30, 2, 3, 4, 5]))
    with pytest.raises(InputError, match=r"trained_on has 2 images.*some of 0 to 29"):
        built(vectors, trained_on=torch.tensor([0, 30]))
    with pytest.raises(InputError, match=r"trained_on has 0 images"):
        built(vectors, trained_on=torch.tensor([], dtype=torch.int64))
    with pytest.raises(InputError, match=r"targets has 6 classes for 30 images"):
        built(vectors, targets=TARGET)
    two = make_outputs((6, 5), (6, 5))
    with pytest.raises(InputError, match=r"contrasts one layer, not 2"):
        CRDLoss().build(two, two, num_samples=IMAGES)
    with pytest.raises(InputError, match=r"negatives is 0"):
        CRDLoss(negatives=0)
    with pytest.raises(InputError, match=r"momentum is 1\.5.*at most 1"):
        CRDLoss(momentum=1.5)

"""Each method against NumPy in float64, and against numbers worked by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from cmkd.errors import InputError
from cmkd.losses.features import (
    ATLoss,
    CCLoss,
    FitNetLoss,
    FSPLoss,
    NSTLoss,
    OFDLoss,
    Outputs,
    PKTLoss,
    ReviewKDLoss,
    RKDLoss,
    SimKDLoss,
    SPLoss,
    SRRLLoss,
    VIDLoss,
    ofd,
    rkd,
)
from tests.losses.features import references


def arrays(outputs):
    return [x.detach().numpy() for x in outputs.features.values()]


def built(distill, student, teacher, **known):
    distill.build(student, teacher, **known)
    return distill


def weights(part):
    return [parameter.detach().numpy() for parameter in part.parameters()]


def vectors_of(*rows):
    x = torch.tensor(rows, dtype=torch.float64)
    return Outputs(torch.zeros(len(x), 2), {"a": x})


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_at(maps, p):
    (s_1, s_2), (t_1, t_2) = map(arrays, maps)
    expected = references.at(s_1, t_1, p) + references.at(references.pooled(s_2, (2, 2)), t_2, p)
    assert ATLoss(p=p)(*maps).item() == pytest.approx(1000 * expected)


def test_sp(maps):
    (s_1, s_2), (t_1, t_2) = map(arrays, maps)
    expected = references.sp(s_1, t_1) + references.sp(s_2, t_2)
    assert SPLoss()(*maps).item() == pytest.approx(3000 * expected)


@pytest.mark.parametrize("most_values", [2**26, 1, 150])
def test_rkd(vectors, most_values, monkeypatch):
    """Also where the angles are computed in pieces: 6 of one corner, or 2 of four and two corners."""
    monkeypatch.setattr(rkd, "_MOST_VALUES", most_values)
    (student,), (teacher,) = map(arrays, vectors)
    distance = references.rkd_distance(student, teacher)
    angle = references.rkd_angle(student, teacher)
    assert RKDLoss()(*vectors).item() == pytest.approx(25 * distance + 50 * angle)
    assert RKDLoss(angle_weight=0.0)(*vectors).item() == pytest.approx(25 * distance)


def test_rkd_in_pieces_has_the_same_gradient(vectors, monkeypatch):
    student, teacher = vectors
    (whole,) = torch.autograd.grad(RKDLoss()(student, teacher), student.features["a"])
    monkeypatch.setattr(rkd, "_MOST_VALUES", 1)
    (pieces,) = torch.autograd.grad(RKDLoss()(student, teacher), student.features["a"])
    torch.testing.assert_close(pieces, whole)


def test_rkd_of_images_that_are_the_same():
    """Teacher distances 0, 2, 2 have mean 2 without the zero; the student's 1, 1, 2 (twice each) mean 4/3."""
    student, teacher = vectors_of([0.0], [1.0], [-1.0]), vectors_of([0.0], [0.0], [2.0])
    # scaled: student 3/4, 3/4, 3/2; teacher 0, 1, 1
    huber = 2 * (0.75**2 / 2 + 0.25**2 / 2 + 0.5**2 / 2)
    assert RKDLoss(angle_weight=0.0)(student, teacher).item() == pytest.approx(25 * huber / 9)


def test_pkt(vectors):
    (student,), (teacher,) = map(arrays, vectors)
    assert PKTLoss()(*vectors).item() == pytest.approx(30000 * references.pkt(student, teacher))


def test_cc(vectors):
    distill = built(CCLoss(width=4), *vectors)
    (student,), (teacher,) = map(arrays, vectors)
    (w_s, b_s), (w_t, b_t) = weights(distill.of_student), weights(distill.of_teacher)
    expected = references.cc(student @ w_s.T + b_s, teacher @ w_t.T + b_t)
    assert distill(*vectors).item() == pytest.approx(0.02 * expected)


def test_nst(maps):
    (s_1, s_2), (t_1, t_2) = map(arrays, maps)
    expected = references.nst(s_1, t_1) + references.nst(references.pooled(s_2, (2, 2)), t_2)
    assert NSTLoss()(*maps).item() == pytest.approx(50 * expected)


def test_vid(maps):
    distill = built(VIDLoss(), *maps)
    (s_1, s_2), (t_1, t_2) = map(arrays, maps)
    expected = 0.0
    for place, (x, target) in enumerate([(s_1, t_1), (references.pooled(s_2, (2, 2)), t_2)]):
        first, second, third = weights(distill.predictors[place])
        x = references.relu(references.conv1x1(x, first))
        mean = references.conv1x1(references.relu(references.conv1x1(x, second)), third)
        # every variance starts at 5
        expected += np.mean((target - mean) ** 2 / 10 + np.log(5) / 2)
    assert distill(*maps).item() == pytest.approx(expected)


def test_fitnet_of_equal_sizes(make_outputs):
    student, teacher = make_outputs((4, 3, 5, 5), seed=1), make_outputs((4, 6, 5, 5), seed=2)
    distill = built(FitNetLoss(), student, teacher)
    (x,), (target,) = arrays(student), arrays(teacher)
    weight, bias = weights(distill.regressors)[:2]
    predicted = references.relu(references.batch_norm(references.conv1x1(x, weight, bias)))
    assert distill(student, teacher).item() == pytest.approx(100 * np.mean((predicted - target) ** 2))


@pytest.mark.parametrize(
    ("size", "wanted", "kind", "kernel"),
    [
        ((8, 8), (4, 4), nn.Conv2d, (3, 3)),
        ((4, 4), (8, 8), nn.ConvTranspose2d, (4, 4)),
        ((9, 9), (4, 4), nn.Conv2d, (1, 1)),
        ((4, 6), (7, 7), nn.Conv2d, (1, 1)),
    ],
)
def test_fitnet_changes_the_size(make_outputs, size, wanted, kind, kernel):
    student, teacher = make_outputs((4, 3, *size)), make_outputs((4, 6, *wanted))
    distill = built(FitNetLoss(), student, teacher)
    convolution = distill.regressors[0][0]
    assert type(convolution) is kind
    assert convolution.kernel_size == kernel
    assert distill(student, teacher).isfinite()


def test_reviewkd(make_outputs):
    student = make_outputs((5, 3, 8, 8), (5, 4, 4, 4), (5, 6), seed=1)
    teacher = make_outputs((5, 2, 8, 8), (5, 7, 2, 2), (5, 9), seed=2)
    distill = built(ReviewKDLoss(), student, teacher)
    levels = []
    for fusion in distill.fusions:
        attend = None if fusion.attend is None else weights(fusion.attend)
        levels.append((weights(fusion.reduce)[0], attend, weights(fusion.predict)[0]))
    assert [level[1] is None for level in levels] == [False, False, True]
    assert levels[0][0].shape == (6, 3, 1, 1)  # the common width is that of the student's embedding
    (s_1, s_2, s_3), (t_1, t_2, t_3) = map(arrays, (student, teacher))
    students, teachers = [s_1, s_2, s_3[:, :, None, None]], [t_1, t_2, t_3[:, :, None, None]]
    expected = references.review(students, teachers, levels)
    assert distill(student, teacher).item() == pytest.approx(5 * expected)


def test_ofd(make_outputs):
    student = make_outputs((5, 3, 4, 4), (5, 4, 2, 2), seed=1)
    teacher = make_outputs((5, 6, 8, 8), (5, 7, 2, 2), seed=2)
    distill = built(OFDLoss(), student, teacher)
    expected = 0.0
    pairs = zip(arrays(student), arrays(teacher), strict=True)
    for place, (x, target) in enumerate(pairs):
        margins = references.ofd_margins(target)
        x = references.batch_norm(references.conv1x1(x, weights(distill.connectors[place])[0]))
        target = references.pooled(target, x.shape[2:])
        expected += references.ofd(x, target, margins) / (2 if place == 0 else 1)
    assert distill(student, teacher).item() == pytest.approx(1e-3 * expected)


def test_ofd_by_hand():
    """One channel, margin -2: teachers 1, -1, -3, -3 want 1, -1, -2, -2, the last three from above only."""
    teacher = torch.tensor([1.0, -1.0, -3.0, -3.0]).reshape(1, 1, 2, 2)
    student = torch.tensor([0.0, -1.5, -1.0, -4.0]).reshape(1, 1, 2, 2)
    margin = torch.full((1, 1, 1), -2.0)
    assert ofd._partial_distance(student, teacher, margin) == 1 + 0 + 1 + 0


def test_srrl(make_outputs):
    student, teacher = make_outputs((4, 3, 5, 5), seed=1), make_outputs((4, 6, 1, 1), seed=2)
    classifier = nn.Linear(6, 10)
    distill = built(SRRLLoss(), student, teacher, classifier=classifier)
    (x,), (target,) = arrays(student), arrays(teacher)
    x = references.batch_norm(references.conv1x1(x, weights(distill.connector)[0]))
    error = references.relu(x).mean((2, 3)) - target[:, :, 0, 0]
    (matrix, _) = weights(classifier)
    expected = np.mean(error**2) + np.mean((error @ matrix.T) ** 2)
    assert distill(student, teacher).item() == pytest.approx(expected)
    assert not any(parameter.shape == (10, 6) for parameter in distill.parameters())  # frozen


def test_simkd(make_outputs):
    """The larger map is pooled."""
    student, teacher = make_outputs((4, 6, 2, 2), seed=1), make_outputs((4, 6, 4, 4), seed=2)
    (x,), (target,) = arrays(student), arrays(teacher)
    expected = np.mean((x - references.pooled(target, (2, 2))) ** 2)
    assert SimKDLoss()(student, teacher).item() == pytest.approx(expected)
    assert SimKDLoss()(teacher, student).item() == pytest.approx(expected)
    with pytest.raises(InputError, match=r"6 channels of the teacher.*not with 3"):
        SimKDLoss()(make_outputs((4, 3, 2, 2)), teacher)
    with pytest.raises(InputError, match=r"one layer of each network, not \['a', 'b'\]"):
        SimKDLoss(teacher_layers=["a", "b"])


def test_fsp(make_outputs):
    student = make_outputs((3, 2, 8, 8), (3, 4, 4, 4), (3, 3, 4, 4), seed=1)
    teacher = make_outputs((3, 2, 4, 4), (3, 5, 4, 4), (3, 3, 2, 2), seed=2)
    distill = built(FSPLoss(), student, teacher)
    assert [len(weights(bridge)) for bridge in distill.bridges] == [0, 1, 0]
    (s_1, s_2, s_3), (t_1, t_2, t_3) = map(arrays, (student, teacher))
    s_2 = references.conv1x1(s_2, weights(distill.bridges[1])[0])
    first = references.flow(references.pooled(s_1, (4, 4)), s_2) - references.flow(t_1, t_2)
    second = references.flow(s_2, s_3) - references.flow(references.pooled(t_2, (2, 2)), t_3)
    assert distill(student, teacher).item() == pytest.approx(50 * (np.mean(first**2) + np.mean(second**2)))


def test_what_a_method_cannot_do_without(vectors):
    student, teacher = vectors
    with pytest.raises(InputError, match=r"SRRLLoss uses the teacher's classifier.*classifier=teacher\.fc"):
        SRRLLoss().build(student, teacher)
    with pytest.raises(InputError, match=r"classifier is Linear\(in_features=3.*embedding has 8 values"):
        SRRLLoss().build(student, teacher, classifier=nn.Linear(3, 10))
    with pytest.raises(InputError, match=r"FSP looks at what happens between layers"):
        FSPLoss().build(student, teacher)


def test_options_out_of_their_domain():
    with pytest.raises(InputError, match=r"p is 0\.5"):
        ATLoss(p=0.5)
    with pytest.raises(InputError, match=r"weight is -1"):
        SPLoss(weight=-1.0)
    with pytest.raises(InputError, match=r"angle_weight is -1"):
        RKDLoss(angle_weight=-1.0)
    with pytest.raises(InputError, match=r"width is 0"):
        CCLoss(width=0)
    with pytest.raises(InputError, match=r"initial_variance is 1e-06"):
        VIDLoss(initial_variance=1e-6)


@pytest.mark.parametrize("variance", [1e-4, 5.0, 1000.0])
def test_vid_starts_from_the_variance_that_is_asked_for(variance, maps):
    distill = built(VIDLoss(initial_variance=variance), *maps)
    for scale in distill.scales:
        found = nn.functional.softplus(scale) + 1e-5
        torch.testing.assert_close(found, torch.full_like(scale, variance), rtol=1e-5, atol=0.0)

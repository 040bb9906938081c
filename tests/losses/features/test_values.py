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
    NSTLoss,
    Outputs,
    PKTLoss,
    RKDLoss,
    SPLoss,
    VIDLoss,
    rkd,
)
from tests.losses.features import references


def arrays(outputs):
    return [x.detach().numpy() for x in outputs.features.values()]


def built(distill, student, teacher, **known):
    distill.build(student, teacher, **known)
    return distill.double()


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

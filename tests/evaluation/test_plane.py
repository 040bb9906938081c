import math

import numpy as np
import pytest
import torch

from cmkd.errors import InputError
from cmkd.evaluation.plane import MARGIN, boundary_share, choose_three, decisions, plane_through


def test_the_images_lie_at_their_corners_and_keep_their_distances():
    images = torch.randn(3, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    plane = plane_through(images, 7)
    flat = images.flatten(1).double().numpy()
    corners = plane.corners.numpy()
    for i in range(3):
        for j in range(3):
            apart = math.dist(corners[i], corners[j])
            assert apart == pytest.approx(float(np.linalg.norm(flat[i] - flat[j])), rel=1e-5)


def test_a_point_of_the_grid_is_the_combination_of_images_that_its_coordinates_say():
    images = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    side = 5
    plane = plane_through(images, side)
    flat, corners = images.flatten(1).numpy(), plane.corners.double().numpy()
    for row in range(side):
        for column in range(side):
            # barycentric coordinates of the point, by solving for them
            point = np.array([plane.x[column], plane.y[row], 1.0])
            weights = np.linalg.solve(np.vstack([corners.T, np.ones(3)]), point)
            expected = weights @ flat
            assert plane.points[row * side + column].flatten().numpy() == pytest.approx(expected, abs=1e-5)


def test_the_grid_reaches_beyond_the_triangle_by_the_margin():
    images = torch.tensor([[0.0, 0.0], [10.0, 0.0], [5.0, 5.0]]).view(3, 1, 1, 2)
    plane = plane_through(images, 3)
    assert plane.x.tolist() == pytest.approx([-10 * MARGIN, 5.0, 10 + 10 * MARGIN])
    assert plane.y.tolist() == pytest.approx([-5 * MARGIN, 2.5, 5 + 5 * MARGIN])


def test_images_on_a_line_are_refused():
    images = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]).view(3, 1, 1, 2)
    with pytest.raises(InputError, match="on a line"):
        plane_through(images, 3)


def test_decisions_do_not_depend_on_the_batch():
    points = torch.randn(10, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    answered = decisions(lambda images: images.flatten(1), points, batch=3)
    assert answered.tolist() == [int(b > a) for a, b in points.flatten(1).tolist()]


def test_three_images_by_hand():
    # Probabilities by softmax; images 0 to 4 are of classes 0, 0, 0, 1, 2, and all right but image 2.
    logits = torch.tensor(
        [[9.0, 0.0, 1.0], [2.0, 0.0, 1.0], [0.0, 5.0, 0.0], [0.0, 3.0, 2.5], [0.0, 1.0, 4.0]]
    )
    targets = torch.tensor([0, 0, 0, 1, 2])
    # margins of images 0, 1, 3, 4: near 1, 0.42, 0.23, 0.92; the lower median is image 1, which holds class 2
    # next likely, then class 1
    assert choose_three(logits, targets) == [1, 4, 3]
    assert choose_three(logits[:3], targets[:3]) is None


def test_boundaries_are_counted_between_neighbours():
    # 3 x 3: 6 pairs across, 6 down; the corner differs from 1 neighbour across and 1 down
    classes = torch.zeros(3, 3, dtype=torch.long)
    classes[0, 0] = 1
    assert boundary_share(classes) == pytest.approx(2 / 12)
    assert boundary_share(torch.zeros(3, 3)) == 0

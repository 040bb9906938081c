"""Dense prediction: pixels with classes in the second dimension, some of which do not count."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from cmkd import CMKDLoss, DenseLoss, DISTLoss, DKDLoss, InputError, KDLoss, TokenLoss
from cmkd.losses import TopLogits

IGNORED = 255


def pixels(shape=(2, 5, 3, 4), dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(shape, generator=generator, dtype=dtype) for _ in "st")
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)
    target[0, 1], target[1, :, 2] = IGNORED, IGNORED
    return student.requires_grad_(), teacher, target


@pytest.mark.parametrize("method", [CMKDLoss(), KDLoss(), DKDLoss(), DISTLoss()])
@pytest.mark.parametrize("chunk", [4, None])
def test_it_is_the_loss_of_the_pixels_that_count(method, chunk):
    student, teacher, target = pixels()
    rows = [(n, y, x) for n in range(2) for y in range(3) for x in range(4) if target[n, y, x] != IGNORED]
    mine, theirs = (torch.stack([x[n, :, i, j] for n, i, j in rows]) for x in (student, teacher))
    expected = method(mine, theirs, torch.stack([target[place] for place in rows]))
    (slope,) = torch.autograd.grad(expected, student)
    found = DenseLoss(method, ignore_index=IGNORED, chunk=chunk)(student, teacher, target)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, student)[0], slope)


def test_without_ignored_pixels_it_is_the_loss_itself():
    student, teacher, _ = pixels()
    for method in (CMKDLoss(), KDLoss(reduction="none"), CMKDLoss(reduction="none")):
        torch.testing.assert_close(DenseLoss(method, chunk=5)(student, teacher), method(student, teacher))


def test_a_mask_of_pixels():
    student, teacher, target = pixels()
    by_target = DenseLoss(ignore_index=IGNORED)(student, teacher, target)
    torch.testing.assert_close(DenseLoss()(student, teacher, mask=target != IGNORED), by_target)
    flat = [x.movedim(1, -1) for x in (student, teacher)]
    torch.testing.assert_close(TokenLoss(ignore_index=IGNORED)(*flat, target), by_target)


def test_channels_last_memory_stays_so():
    student, teacher, target = pixels()
    student = student.detach().to(memory_format=torch.channels_last).requires_grad_()
    DenseLoss(KDLoss(), ignore_index=IGNORED, chunk=4)(student, teacher, target).backward()
    assert student.grad.is_contiguous(memory_format=torch.channels_last)


def test_what_does_not_fit_is_refused():
    student, teacher, target = pixels()
    with pytest.raises(InputError, match=r"need torch.int64 \(2, 3, 4\)"):
        DenseLoss()(student, teacher, target[:, 0])
    with pytest.raises(InputError, match="use TokenLoss"):
        DenseLoss()(student, TopLogits(teacher, target))
    with pytest.raises(InputError, match="target 255 is outside the 5 classes"):
        DenseLoss()(student, teacher, target)


def digits():
    """Drawings of digits on a wall: each pixel is background (0), or a digit's ink (1 to 10).

    Four digits of scikit-learn's, each 8 x 8, make a picture of 16 x 16. Faint ink, between the two, belongs
    to neither and does not count, as the outlines of objects do not in Pascal VOC.
    """
    data = load_digits()
    images = torch.tensor(data.images[:1200], dtype=torch.float32)
    inked = 1 + torch.tensor(data.target[:1200]).reshape(-1, 1, 1).expand(-1, 8, 8)
    label = torch.where(images >= 8, inked, 0)
    label = torch.where((images > 0) & (images < 8), IGNORED, label)

    def tiled(x):
        rows = x.reshape(-1, 2, 2, 8, 8).permute(0, 1, 3, 2, 4)
        return rows.reshape(-1, 16, 16)

    return tiled(images).unsqueeze(1) / 16, tiled(label)


def segmenter(width):
    return nn.Sequential(
        nn.Conv2d(1, width, 4, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.ConvTranspose2d(2 * width, 11, 4, stride=2, padding=1),
    )  # fmt: skip


def train(network, objective, inputs, labels, epochs, lr=5e-3):
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    losses = []
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs)).split(10):
            loss = objective(network.train()(inputs[batch]), inputs[batch], labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def ink_right(network, inputs, labels):
    """Share of the ink that is given its digit."""
    with torch.no_grad():
        found = network.eval()(inputs).argmax(1)
    ink = (labels > 0) & (labels != IGNORED)
    return (found == labels)[ink].float().mean().item()


def test_a_segmentation_of_digits():
    """A student without labels learns from its teacher which digit the ink belongs to."""
    torch.manual_seed(0)
    inputs, labels = digits()
    (seen, unseen), (known, hidden) = (x.split([220, 80]) for x in (inputs, labels))
    teacher, student = segmenter(32), segmenter(16)

    def task(logits, _, target):
        return F.cross_entropy(logits, target, ignore_index=IGNORED)

    train(teacher, task, seen, known, epochs=5)
    taught = ink_right(teacher, unseen, hidden)
    assert taught > 0.7
    distill = DenseLoss(CMKDLoss(alpha=4.0), ignore_index=IGNORED)

    def learn(logits, images, target):
        with torch.no_grad():
            theirs = teacher.eval()(images)
        count = target != IGNORED
        return distill(logits, theirs, mask=count)

    losses = train(student, learn, seen, known, epochs=6)
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert ink_right(student, unseen, hidden) > 0.7 * taught

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cmkd.data import Batch
from cmkd.errors import InputError
from cmkd.teachers import LiveTeacher

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)


def batch_of(pixels):
    images = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    return Batch(images, torch.zeros(len(images), dtype=torch.long), torch.arange(len(images)), 0)


def test_it_is_fed_what_it_was_trained_on():
    pixels = torch.rand(4, 3, 2, 2)
    other_mean, other_std = (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)
    teacher = LiveTeacher(nn.Flatten(), mean=MEAN, std=STD, teacher_mean=other_mean, teacher_std=other_std)
    expected = (pixels - torch.tensor(other_mean).view(3, 1, 1)) / torch.tensor(other_std).view(3, 1, 1)
    torch.testing.assert_close(teacher(batch_of(pixels)), expected.flatten(1))


def test_images_are_not_touched_when_the_statistics_agree():
    batch = batch_of(torch.rand(4, 3, 2, 2))
    teacher = LiveTeacher(nn.Flatten(), mean=MEAN, std=STD)
    assert not teacher.renormalizes
    assert torch.equal(teacher(batch), batch.images.flatten(1))


def test_it_stays_in_eval_mode_and_without_gradients():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 5))
    teacher = LiveTeacher(network, mean=MEAN, std=STD)
    nn.ModuleList([teacher]).train()
    assert not any(module.training for module in teacher.modules())
    before = network[0].running_mean.clone()
    logits = teacher(batch_of(torch.rand(4, 3, 2, 2)))
    assert torch.equal(network[0].running_mean, before)
    assert not logits.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_logits_are_float32_whatever_the_autocast():
    teacher = LiveTeacher(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), mean=MEAN, std=STD)
    with torch.autocast("cpu", torch.bfloat16):
        assert teacher(batch_of(torch.rand(4, 3, 2, 2))).dtype == torch.float32


def test_statistics_of_another_number_of_channels():
    with pytest.raises(InputError, match=r"std has 1 values.*3 channels"):
        LiveTeacher(nn.Flatten(), mean=MEAN, std=STD, teacher_mean=MEAN, teacher_std=[0.5])


def normalizing():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5)).eval()
    nn.init.uniform_(network[1].running_var, 0.5, 2)
    return network


def test_hooks_on_the_network_are_served_by_it():
    network = normalizing()
    teacher = LiveTeacher(network, mean=MEAN, std=STD)
    batch = batch_of(torch.rand(4, 3, 2, 2))
    own = teacher(batch)
    teacher.fold(2)
    folded = teacher(batch)
    assert teacher.folded is not None
    assert not torch.equal(folded, own)  # else it would not be seen who answers
    torch.testing.assert_close(folded, own)

    seen = []
    handle = network[1].register_forward_hook(lambda *arguments: seen.append(arguments[-1].shape))
    assert torch.equal(teacher(batch), own)
    assert seen == [(4, 4, 2, 2)]
    handle.remove()
    assert torch.equal(teacher(batch), folded)
    with network[3].register_forward_pre_hook(lambda *_: seen.append(None)):
        assert torch.equal(teacher(batch), own)
    assert len(seen) == 2


def test_a_folded_teacher_stays_frozen_and_moves_with_its_network():
    teacher = LiveTeacher(normalizing(), mean=MEAN, std=STD)
    teacher.fold(2)
    teacher.train().to(torch.float64)
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    batch = batch_of(torch.rand(4, 3, 2, 2))
    expected = teacher.network(batch.images.double())
    torch.testing.assert_close(teacher.folded(batch.images.double()), expected, rtol=1e-6, atol=1e-7)


def test_what_cannot_be_folded_answers_as_before():
    teacher = LiveTeacher(nn.Flatten(), mean=MEAN, std=STD)
    teacher.fold(2)
    batch = batch_of(torch.rand(4, 3, 2, 2))
    assert teacher.folded is None
    assert torch.equal(teacher(batch), batch.images.flatten(1))


@pytest.mark.parametrize(("size", "wanted"), [(12, 20), (12, 5), (32, 7)])
def test_images_are_resized_as_pillow_does_it(size, wanted):
    """Pillow's bilinear filter, too, is widened where an image is made smaller."""
    pixels = torch.rand(2, 3, size, size)
    teacher = LiveTeacher(
        nn.Flatten(), mean=MEAN, std=STD, teacher_mean=[0.0] * 3, teacher_std=[1.0] * 3, image_size=wanted
    )
    expected = [
        [
            np.asarray(Image.fromarray(plane.numpy()).resize((wanted, wanted), Image.Resampling.BILINEAR))
            for plane in image
        ]
        for image in pixels
    ]
    torch.testing.assert_close(
        teacher(batch_of(pixels)), torch.from_numpy(np.stack(expected)).flatten(1), rtol=0, atol=1e-5
    )


def test_images_of_the_right_size_are_not_touched():
    batch = batch_of(torch.rand(4, 3, 6, 6))
    assert torch.equal(
        LiveTeacher(nn.Flatten(), mean=MEAN, std=STD, image_size=6)(batch), batch.images.flatten(1)
    )

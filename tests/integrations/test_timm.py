"""The task in the place of timm's own, between timm's optimiser, scheduler, averages and checkpoints."""

import copy
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from timm import create_model, utils
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import nn

from cmkd import CMKDLoss, DKDLoss, InputError, KDLoss
from cmkd.losses import DenseLoss, TokenLoss

pytest.importorskip("timm.task")

from timm.task import DistillationTeacher

from cmkd.integrations import DistillationTask

CLASSES = 6


def tiny(name="resnet18", seed=0, **options):
    torch.manual_seed(seed)
    return create_model(name, num_classes=CLASSES, **options)


@pytest.fixture
def student():
    return tiny("mobilenetv3_small_050", seed=1)


@pytest.fixture
def teacher():
    return tiny(seed=2, drop_rate=0.5)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 3, 32, 32, generator=generator), torch.arange(8) % CLASSES


def as_the_script_calls_it(student, teacher, make=DistillationTask, **changes):
    """Return the task with the arguments of timm's train.py, its defaults among them."""
    options = {
        "criterion": nn.CrossEntropyLoss(),
        "loss_type": "kl",
        "distill_loss_weight": None,
        "task_loss_weight": None,
        "temperature": 4.0,
        "device": torch.device("cpu"),
        "dtype": None,
        "verbose": False,
    }
    return make(student_model=student, teacher_model=teacher, **{**options, **changes})


@pytest.mark.parametrize("loss", [CMKDLoss(), KDLoss(), DKDLoss()])
def test_the_loss_is_that_of_a_plain_call(loss, student, teacher, batch):
    images, labels = batch
    found = as_the_script_calls_it(student.eval(), teacher, loss=loss)(images, labels)
    with torch.no_grad():
        logits, teacher_logits = student(images), teacher.eval()(images)
    task, term = F.cross_entropy(logits, labels), loss(logits, teacher_logits, labels)
    assert found["loss"].item() == (loss.task_weight * task + term).item()
    assert found["task_loss"].item() == task.item()
    assert found["kd_loss"].item() == term.item()
    assert torch.equal(found["output"], logits)


def test_cmkd_is_the_default(student, teacher):
    assert isinstance(as_the_script_calls_it(student, teacher).distillation, CMKDLoss)


@pytest.mark.parametrize(
    ("given", "weights"),
    [
        ({}, (0.1, 1.0)),  # of KD
        ({"distill_loss_weight": 2.0}, (0.1, 2.0)),
        ({"distill_loss_weight": 2.0, "task_loss_weight": 3.0}, (3.0, 2.0)),
        ({"task_loss_weight": 0.25}, (0.25, 0.75)),  # as timm has it
    ],
)
def test_the_weights(given, weights, student, teacher, batch):
    task = as_the_script_calls_it(student.eval(), teacher, loss=KDLoss(), **given)
    found = task(*batch)
    expected = weights[0] * found["task_loss"] + weights[1] * found["kd_loss"]
    assert found["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_teacher_sees_images_normalised_for_it(student, teacher, batch):
    images, labels = batch
    teacher.pretrained_cfg = {**teacher.pretrained_cfg, "mean": (0.5, 0.4, 0.3), "std": (0.1, 0.2, 0.4)}
    config = student.pretrained_cfg
    mean, std = (torch.tensor(config[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    pixels = images * std + mean
    own = (pixels - torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)) / torch.tensor([0.1, 0.2, 0.4]).view(
        1, 3, 1, 1
    )
    with torch.no_grad():
        expected = CMKDLoss()(student.eval()(images), teacher.eval()(own), labels)
    found = as_the_script_calls_it(student, DistillationTeacher(teacher))(images, labels)
    torch.testing.assert_close(found["kd_loss"], expected, rtol=1e-4, atol=1e-5)


def test_soft_targets_go_to_the_criterion_alone(student, teacher, batch):
    images, labels = batch
    mixed = 0.5 * F.one_hot(labels, CLASSES) + 0.5 * F.one_hot(labels.flip(0), CLASSES)
    task = as_the_script_calls_it(student.eval(), teacher, criterion=SoftTargetCrossEntropy())
    found = task(images, mixed)
    with torch.no_grad():
        expected = F.cross_entropy(student(images), mixed) + CMKDLoss()(student(images), teacher(images))
    torch.testing.assert_close(found["loss"], expected)
    with pytest.raises(InputError, match="target"):
        as_the_script_calls_it(student, teacher, criterion=SoftTargetCrossEntropy(), loss=DKDLoss())(
            images, mixed
        )


def test_it_trains_in_timms_loop(student, teacher, tmp_path):
    """What train.py does with a task, a few steps, an average, a checkpoint, a resume."""
    before = copy.deepcopy(teacher.state_dict())
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(24, 3, 32, 32, generator=generator) + torch.arange(24).view(24, 1, 1, 1) % CLASSES
    loader = list(zip(images.split(8), (torch.arange(24) % CLASSES).split(8), strict=True))
    task = as_the_script_calls_it(student, teacher, criterion=LabelSmoothingCrossEntropy(0.1))
    optimizer = create_optimizer_v2(student, opt="sgd", lr=0.05, momentum=0.9)
    scheduler, epochs = create_scheduler_v2(optimizer, sched="cosine", num_epochs=4)
    task.setup_ema(decay=0.5)
    saver = utils.CheckpointSaver(student, optimizer, checkpoint_dir=str(tmp_path), decreasing=True)
    losses = []
    for epoch in range(epochs):
        task.train()
        assert not any(part.training for part in teacher.modules())
        for images, labels in loader:
            optimizer.zero_grad()
            result = task(images, labels)
            result["loss"].backward()
            nn.utils.clip_grad_norm_(task.get_clip_parameters(), 10.0)
            optimizer.step()
            task.update_ema()
            losses.append(result["loss"].item())
        scheduler.step(epoch + 1)
        saver.save_checkpoint(epoch, metric=losses[-1])
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
    state = task.get_checkpoint_state()
    assert list(state["state_dict"]) == list(student.state_dict())
    assert task.get_eval_model() is student
    assert task.has_ema()


@pytest.mark.parametrize("wrap", [lambda loss: loss, TokenLoss, DenseLoss])
def test_losses_that_change_over_the_epochs_are_refused(wrap, student, teacher):
    loss = KDLoss()
    loss.set_epoch = print
    with pytest.raises(InputError, match="KDLoss changes over the epochs"):
        as_the_script_calls_it(student, teacher, loss=wrap(loss))


class Pixels(nn.Conv2d):
    """A network of pixels with what timm's task reads of its own."""

    num_classes, in_chans = CLASSES, 3
    pretrained_cfg: ClassVar = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

    def __init__(self):
        super().__init__(3, CLASSES, 1)


def test_pixels_take_a_loss_of_pixels():
    torch.manual_seed(0)
    student, teacher = Pixels(), Pixels()
    images, labels = torch.randn(2, 3, 4, 4), torch.randint(0, CLASSES, (2, 4, 4))
    labels[0, 0] = -100  # which do not count
    found = as_the_script_calls_it(student, teacher, loss=DenseLoss(DKDLoss()))(images, labels)
    rows = [network(images).movedim(1, -1).flatten(0, 2)[4:] for network in (student, teacher)]
    expected = DKDLoss()(*rows, labels.flatten()[4:])
    torch.testing.assert_close(found["kd_loss"], expected)

"""The loops that people write and install: the same work in the style of today's codebases."""

from __future__ import annotations

import itertools
import time
from typing import Any

import torch
import torch.nn.functional as F
from throughput_work import DISTILLATION_WEIGHT, SGD, TEMPERATURE, Work
from torch import Tensor, nn


class DistillKL(nn.Module):
    """KD (Hinton et al. 2015) as RepDistiller and its descendants have it."""

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the divergence times the square of the temperature."""
        student = F.log_softmax(student_logits / TEMPERATURE, dim=1)
        teacher = F.softmax(teacher_logits / TEMPERATURE, dim=1)
        return F.kl_div(student, teacher, reduction="batchmean") * TEMPERATURE**2


def plain_loop(work: Work) -> None:
    """Train as a loop of RepDistiller or mdistiller does: live teacher, a meter read at every step."""
    student, teacher, loader = work.student(), work.teacher(), work.loader()
    criterion_cls, criterion_kd = nn.CrossEntropyLoss(), DistillKL()
    optimizer = torch.optim.SGD(student.parameters(), **SGD)
    for phase, module in (("student", student), ("teacher", teacher)):
        work.turns.clock.watch(phase, module)
    work.turns.clock.watch("loss", criterion_cls)
    work.turns.clock.watch("loss", criterion_kd)
    total_loss, total_top1, total_top5, seen = 0.0, 0.0, 0.0, 0
    for _ in itertools.count():
        student.train()
        for images, targets in loader:
            images, targets = images.to(work.device), targets.to(work.device)
            logits = student(images)
            with torch.no_grad():
                teacher_logits = teacher(images)
            loss_cls = criterion_cls(logits, targets)
            loss_kd = criterion_kd(logits, teacher_logits)
            loss = (1 - DISTILLATION_WEIGHT) * loss_cls + DISTILLATION_WEIGHT * loss_kd

            top1, top5 = _accuracy(logits, targets)
            total_loss += loss.item() * len(images)
            total_top1 += top1 * len(images)
            total_top5 += top5 * len(images)
            seen += len(images)

            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            work.turns.step()


def timm_task(work: Work) -> None:
    """Train through timm's distillation task and optimiser, stepping as timm's train.py does."""
    from timm.optim import create_optimizer_v2
    from timm.task import DistillationTeacher, LogitDistillationTask

    student, teacher, loader = work.student(), work.teacher(), work.loader()
    for network in (student, teacher):  # what the task asks networks that are not timm's
        network.pretrained_cfg = {"mean": work.data.mean, "std": work.data.std}
    task = LogitDistillationTask(
        student_model=student,
        teacher_model=DistillationTeacher(teacher, device=work.device),
        criterion=nn.CrossEntropyLoss(),
        task_loss_weight=1 - DISTILLATION_WEIGHT,
        distill_loss_weight=DISTILLATION_WEIGHT,
        temperature=TEMPERATURE,
        device=work.device,
        verbose=False,
    ).to(work.device)
    optimizer = create_optimizer_v2(student, opt="sgd", **SGD)
    for phase, module in (("loss", task), ("student", student), ("teacher", teacher)):
        work.turns.clock.watch(phase, module)
    for _ in itertools.count():
        task.train()
        for images, targets in loader:
            images, targets = images.to(work.device), targets.to(work.device)
            loss = task(images, targets)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            work.turns.step()


def torchdistill_box(work: Work) -> None:
    """Train through torchdistill's box, stepping as its example of image classification does."""
    from torchdistill.core.distillation import get_distillation_box
    from torchdistill.misc.log import MetricLogger, SmoothedValue

    box = get_distillation_box(
        work.teacher(),
        work.student(),
        {"train": work.dataset()},
        _torchdistill_config(work),
        work.device,
        None,
        False,
        1,
    )
    modules = {"student": box.student_model, "teacher": box.teacher_model, "loss": box.criterion}
    for phase, module in modules.items():
        work.turns.clock.watch(phase, module)
    for epoch in itertools.count():
        box.pre_epoch_process(epoch=epoch)
        meters = MetricLogger(delimiter="  ")
        meters.add_meter("lr", SmoothedValue(window_size=1, fmt="{value}"))
        meters.add_meter("img/s", SmoothedValue(window_size=10, fmt="{value}"))
        for images, targets, extra in meters.log_every(box.train_data_loader, 1000, f"Epoch: [{epoch}]"):
            start = time.time()
            images, targets = images.to(work.device), targets.to(work.device)
            loss = box.forward_process(images, targets, extra)
            box.post_forward_process(loss)
            meters.update(loss=loss.item(), lr=box.optimizer.param_groups[0]["lr"])
            meters.meters["img/s"].update(len(images) / (time.time() - start))
            if not torch.isfinite(loss):
                raise ValueError(f"the loss became {loss}")
            work.turns.step()
        box.post_epoch_process()


def _torchdistill_config(work: Work) -> dict[str, Any]:
    """Return what a configuration file of torchdistill says of this work."""
    from torch.utils.data import RandomSampler

    kd = {
        "key": "KDLoss",
        "kwargs": {
            "student_module_path": ".",
            "student_module_io": "output",
            "teacher_module_path": ".",
            "teacher_module_io": "output",
            "temperature": TEMPERATURE,
            "alpha": 1 - DISTILLATION_WEIGHT,
        },
    }
    return {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler},
            "kwargs": work.loader_options(),
        },
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {"key": "SGD", "kwargs": dict(SGD)},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": kd, "weight": 1.0}}},
        },
    }


def _accuracy(logits: Tensor, targets: Tensor) -> tuple[float, float]:
    """Return the shares of right answers among the first and the first five, as the codebases count them."""
    with torch.no_grad():
        predicted = logits.topk(5, 1, True, True).indices.t()
        correct = predicted.eq(targets.view(1, -1).expand_as(predicted))
        return tuple(correct[:k].reshape(-1).float().sum().item() / len(targets) for k in (1, 5))

"""Distillation in a plain PyTorch loop: the embedded images, the teacher that ships with the package.

python examples/plain_loop.py
"""

import torch
import torch.nn.functional as F

from cmkd import CMKDLoss
from cmkd.data import load
from cmkd.demo import TEACHER
from cmkd.models import build, load_weights


def main(epochs: int = 1, images: int = 10_000, batch_size: int = 64) -> list[float]:
    """Train, and return the loss of every step."""
    torch.manual_seed(0)
    data = load("fashion-mnist-12k")
    # Grey pixels as three channels, normalised as the teacher was trained.
    pixels = data.train.images[:images].float().div(255).expand(-1, 3, -1, -1)
    inputs, targets = (pixels - data.mean[0]) / data.std[0], data.train.targets[:images]

    teacher = build("resnet20", data.num_classes).eval()
    load_weights(teacher, TEACHER / "student.safetensors")
    student = build("resnet8", data.num_classes)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    distill = CMKDLoss()

    losses = []
    for epoch in range(epochs):
        for batch in torch.randperm(len(inputs)).split(batch_size):
            with torch.no_grad():
                teacher_logits = teacher(inputs[batch])
            logits = student(inputs[batch])
            task = F.cross_entropy(logits, targets[batch])
            loss = distill.task_weight * task + distill(logits, teacher_logits, targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: loss {sum(losses[-10:]) / len(losses[-10:]):.2f}")
    return losses


if __name__ == "__main__":
    main()

"""Run folders with known numbers, as a run would have written them."""

import json
import math

import yaml

TEACHER = {
    "network": "resnet20",
    "source": "runs/teacher",
    "parameters": 272_474,
    "sha256": "ab" * 32,
    "mean": [0.286, 0.286, 0.286],
    "std": [0.353, 0.353, 0.353],
    "normalization": "its run folder",
    "accuracy": 0.9213,
}
ENVIRONMENT = {
    "cmkd": "0.1.0",
    "revision": "0123456789ab",
    "python": "3.12.1",
    "torch": "2.9.0",
    "platform": "Linux",
    "device": "cpu",
    "hardware": "A processor",
    "threads": 2,
    "precision": "bf16",
}


def config(method, *, epochs, seed, teacher, validation):
    common = {
        "data": "fashion-mnist-12k",
        "validation": 0.1 if validation else 0.0,
        "augment": None,
        "epochs": epochs,
        "batch_size": 128,
        "optimizer": "sgd",
        "lr": 0.1,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 5e-4,
        "schedule": "cosine",
        "warmup_epochs": 1.0,
        "label_smoothing": 0.0,
        "clip_grad": None,
        "ema_decay": None,
        "seed": seed,
    }
    if not teacher:
        return {"verb": "train", **common, "model": "resnet8"}
    loss = {"name": method, "alpha": 8} if method == "CMKD" else {"name": method}
    return {"verb": "distill", **common, "teacher": "runs/teacher", "student": "resnet8", "loss": loss}


def epoch_row(method, epoch, *, epochs, accuracy, teacher, validation):
    progress = epoch / epochs
    reached = accuracy - 0.25 * math.exp(-4 * progress) + 0.25 * math.exp(-4)
    train = {"loss": 2.2 - progress, "accuracy": reached - 0.02, "task": 1.2 - 0.8 * progress}
    histograms = {}
    if teacher:
        train["distillation"] = (4.0 if method == "KD" else 1.5) * (1.2 - progress)
    if method == "CMKD":
        train |= {"pearson": 0.3 - 0.2 * progress, "spearman": 0.5 - 0.3 * progress, "intra": 0.0}
        train |= {"weight": 0.5, "difficulty": 0.4}
        histograms = {
            "weight": [50] * 20,
            "difficulty": [
                round(200 * math.exp(-(((i / 19 - 0.5 * progress) / 0.2) ** 2))) for i in range(20)
            ],
        }
    row = {
        "epoch": epoch,
        "lr": 0.05 * (1 + math.cos(math.pi * progress)),
        "seconds": 3.0 + 0.1 * (epoch % 2),
    }
    row |= {"train": train, "histograms": histograms}
    if validation:
        row["validation"] = {"accuracy": reached, "top5": 0.99, "nll": 0.5, "ece": 0.02}
        if teacher:
            likeness = 0.95 - 0.3 * math.exp(-4 * progress) - (0.1 if method == "KD" else 0.0)
            row["validation"] |= {"agreement": reached, "rank_correlation": likeness, "teacher_kl": 0.1}
            row["validation"]["value_correlation"] = likeness + 0.03
    return row


def write_run(
    path,
    method="CMKD",
    *,
    accuracy=0.85,
    epochs=5,
    seed=0,
    teacher=True,
    validation=True,
    finished=True,
    latency=1.5,
):
    """Write a run folder; `accuracy` is reached on the test set and in the last epoch's validation."""
    path.mkdir(parents=True)
    options = config(method, epochs=epochs, seed=seed, teacher=teacher, validation=validation)
    (path / "config.yaml").write_text(yaml.safe_dump(options, sort_keys=False))
    (path / "environment.json").write_text(json.dumps(ENVIRONMENT))
    kinds = {"teacher": teacher, "validation": validation}
    rows = [
        epoch_row(method, epoch, epochs=epochs, accuracy=accuracy, **kinds) for epoch in range(1, epochs + 1)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = {"images": 2000, "test": {"accuracy": accuracy, "nll": 0.5, "ece": 0.02}}
    if teacher:
        (path / "teacher.json").write_text(json.dumps(TEACHER))
        result["teacher"] = {"accuracy": 0.915, "nll": 0.3, "ece": 0.01}
        result["test"] |= {"agreement": accuracy + 0.02, "rank_correlation": accuracy + 0.05}
    if validation:
        result["best_validation"] = {"epoch": epochs, "accuracy": accuracy}
        result["last_validation"] = {"accuracy": accuracy}
    result |= {"parameters": 78_042, "train_seconds": 15.5}
    result |= {"latency_ms": latency, "latency_p10_ms": latency - 0.5, "latency_p90_ms": latency + 0.5}
    if finished:
        (path / "result.json").write_text(json.dumps(result))
    return path

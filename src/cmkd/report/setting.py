"""How runs were measured, in words: what they share, and where they differ."""

from __future__ import annotations

from typing import Any

from cmkd.files import public_name
from cmkd.report.records import Record, Records, count, in_common

#: What the scores are; the definitions are those of `cmkd.evaluation`.
DEFINITIONS = {
    "Test accuracy": "Share of the test images given the right class by the network of the last epoch. "
    "The test set decides nothing.",
    "Agreement": "Share of the test images to which student and teacher give the same class.",
    "Rank correlation": "Spearman’s ρ, with exact ranks, between the student’s and the teacher’s logits of "
    "an image; mean over the test images.",
    "CPU latency": "One image, float32, on the CPU of the machine that trained the run; median of passes.",
}
PACKAGES = ("cmkd", "python", "torch", "torchvision", "timm", "accelerate", "numpy")


def setting(records: Records) -> dict[str, str]:
    """Return how the runs were made and measured: topic -> text.

    Where the runs differ, the text says which method has what.
    """
    rows = {
        "Data": in_common(records, _data),
        "Images": in_common(records, _images),
        "Network": in_common(records, lambda run: str(run.config.get("student") or run.config.get("model"))),
        "Objective": in_common(records, _objective),
        "Epochs": in_common(records, _epochs),
        "Batch size": in_common(records, lambda run: _option(run, "batch_size")),
        "Optimiser": in_common(records, _optimizer),
        "Learning rate": in_common(records, _schedule),
        "Regularisation": in_common(records, _regularization),
        "Seeds": _seeds(records),
        "Precision": in_common(records, lambda run: str(run.environment.get("precision", "unknown"))),
        "Hardware": in_common(records, _hardware),
        "Versions": in_common(records, _versions),
        "Revision": in_common(
            records, lambda run: str(run.environment.get("revision") or "not from a checkout")
        ),
        "Teacher": in_common(records, _teacher),
    }
    return rows | DEFINITIONS


def options_of(run: Record) -> dict[str, str]:
    """Return every option of a run as text, then what it measured beside the summary table."""
    options = {name: shown(value) for name, value in run.config.items()}
    result = run.result or {}
    if best := result.get("best_validation"):
        last = result["last_validation"]["accuracy"]
        options["validation accuracy"] = (
            f"{last:.2%} (last epoch); {best['accuracy']:.2%} (best epoch, {best['epoch']})"
        )
    if seconds := result.get("train_seconds"):
        options["training time"] = f"{seconds:,.0f} s"
    if "latency_p10_ms" in result:
        options["CPU latency, 10th to 90th percentile"] = (
            f"{result['latency_p10_ms']:.2f} to {result['latency_p90_ms']:.2f} ms"
        )
    return options


def shown(value: Any) -> str:
    """Return an option as text; of an absolute path only its end: pages are passed on, homes are private."""
    if value is None:
        return "–"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {shown(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown, value))
    return public_name(str(value))


def _option(run: Record, name: str) -> str:
    return shown(run.config.get(name))


def _data(run: Record) -> str:
    from cmkd.data import available

    name = _option(run, "data")
    described = available().get(name, "")
    return f"{name}: {described.rstrip('.')}" if described else name


def _images(run: Record) -> str:
    share = run.config.get("validation")
    parts = [
        f"{100 * share:.3g} % of the training images held out for validation, stratified"
        if share
        else "no validation part"
    ]
    if run.result is not None:
        judged = run.result.get("images")
        parts.append("test set not looked at" if judged is None else f"{judged:,} test images")
    if noise := run.config.get("label_noise"):
        parts.append(f"{100 * noise:.3g} % of the training labels replaced by another class")
    if augment := run.config.get("augment"):
        parts.append(f"augmentation {augment}")
    return "; ".join(parts)


def _objective(run: Record) -> str:
    methods = [run.config.get("loss"), *run.config.get("with", [])]
    said = ["cross-entropy"]
    for method in methods:
        if method is not None and method["name"] != "CE":
            options = {key: value for key, value in method.items() if key != "name"}
            said.append(method["name"] + (f" with {shown(options)}" if options else " with its defaults"))
    weight = run.config.get("task_weight")
    return " and ".join(said) + (f", task weight {weight}" if weight is not None and said[1:] else "")


def _epochs(run: Record) -> str:
    asked, done = run.config.get("epochs"), len(run.epochs)
    return str(asked) if done == asked else f"{done} of {asked}"


def _optimizer(run: Record) -> str:
    config = run.config
    nesterov = " (Nesterov)" if config.get("nesterov") and config.get("optimizer") == "sgd" else ""
    name = {"sgd": "SGD", "adamw": "AdamW"}.get(config.get("optimizer", ""), _option(run, "optimizer"))
    return (
        f"{name}, momentum {_option(run, 'momentum')}{nesterov}, weight decay {_option(run, 'weight_decay')}"
    )


def _schedule(run: Record) -> str:
    warmup = run.config.get("warmup_epochs") or 0
    suffix = f", warm-up for {warmup:g} epoch{'' if warmup == 1 else 's'}" if warmup else ""
    return f"{_option(run, 'lr')}, {_option(run, 'schedule')}{suffix}"


def _regularization(run: Record) -> str:
    named = {
        "label_smoothing": "label smoothing",
        "clip_grad": "gradient norm at most",
        "ema_decay": "EMA decay",
    }
    used = [f"{name} {run.config[key]}" for key, name in named.items() if run.config.get(key)]
    return ", ".join(used) or "neither label smoothing nor gradient clipping nor a moving average"


def _seeds(records: Records) -> str:
    seeds = in_common(records, lambda run: _option(run, "seed"))
    sizes = {len(runs) for runs in records.values()}
    return f"{seeds} (n = {sizes.pop()} per method)" if len(sizes) == 1 else seeds


def _hardware(run: Record) -> str:
    environment = run.environment
    if not environment:
        return "unknown"
    threads = environment.get("threads")
    return f"{environment.get('hardware')} ({environment.get('device')}" + (
        f", {count(threads, 'thread')})" if threads else ")"
    )


def _versions(run: Record) -> str:
    return (
        ", ".join(f"{name} {run.environment[name]}" for name in PACKAGES if name in run.environment)
        or "unknown"
    )


def _teacher(run: Record) -> str:
    teacher = run.teacher
    if teacher is None:
        return "none"
    accuracy = teacher.get("accuracy")
    measured = f"; {accuracy:.2%} on the validation part" if accuracy is not None else ""
    if members := teacher.get("members"):
        return f"the mean of the logits of {len(members)}: {'; '.join(map(_network, members))}{measured}"
    return _network(teacher) + measured


def _network(teacher: dict[str, Any]) -> str:
    mean, std = (", ".join(f"{value:.4g}" for value in teacher[key]) for key in ("mean", "std"))
    known = f", from {teacher['normalization']}" if teacher.get("normalization") else ""
    size = f", resized to {size} x {size}" if (size := teacher.get("image_size")) else ""
    return (
        f"{teacher['network']} from {shown(teacher['source'])}, {teacher['parameters']:,} parameters, "
        f"frozen, in eval mode; input normalised with mean ({mean}) and standard deviation ({std}){known}"
        f"{size}"
    )

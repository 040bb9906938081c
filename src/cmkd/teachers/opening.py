"""Finding a teacher by run folder or by name, and looking it over before anything is trained from it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cmkd import models
from cmkd.data import ImageData
from cmkd.errors import InputError
from cmkd.files import at_home, read_json
from cmkd.teachers.live import LiveTeacher

#: The teacher of `cmkd demo`, a run folder like any other.
SHIPPED = Path(models.__file__).parents[1] / "demo" / "teacher"


@dataclass
class TeacherReport:
    """What was found out about a teacher before training.

    Args:
        network: Its name.
        source: Where its weights came from.
        parameters: Number of its parameters.
        sha256: Hash of its weights, so that a resumed run has the same teacher.
        mean: Mean that its images are normalised with.
        std: Standard deviation that goes with it.
        normalization: Where those two were learnt from.
        image_size: Side in pixels that the images are brought to for it; None if it sees them as they are; a
            list of these for an ensemble, if one of its members has a size of its own.
        accuracy: Its accuracy on the validation part; None without one.
        logits: Where its logits come from while a student is trained: the network itself, `live`, or a cache.
        members: Of an ensemble, the reports on its members as plain data; else empty.
    """

    network: str
    source: str
    parameters: int
    sha256: str
    mean: list[float]
    std: list[float]
    normalization: str
    image_size: int | list[int | None] | None = None
    accuracy: float | None = None
    logits: str = "live"
    members: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return asdict(self)


def open_teacher(
    teacher: str,
    data: ImageData,
    *,
    weights: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | None = None,
    device: torch.device | str = "cpu",
) -> tuple[LiveTeacher, TeacherReport]:
    """Open a teacher for a data set.

    Args:
        teacher: Run folder, or a network by name.
        data: The data set whose images and classes it will see.
        weights: For a network by name: a file, `"pretrained"` or `"random"`.
        mean: Mean that the teacher expects, overriding what is known of it.
        std: Standard deviation that goes with `mean`.
        image_size: Side in pixels of the images that it expects, overriding what its run folder says; by
            default a network by name is shown those of the data as they are.
        device: Where the teacher shall run.

    Returns:
        The teacher, and what is known of it (its accuracy is for the caller to measure).

    Raises:
        InputError: It cannot be found, loaded or used with these classes.
    """
    run, known_size = run_folder(teacher), None
    if (run / "model.json").exists():
        if weights is not None:
            raise InputError(
                f"--teacher {teacher} is a run folder and has weights; leave --teacher_weights out."
            )
        network, card = load_run_network(run)
        name, source = card["network"], teacher
        known, origin = (card["mean"], card["std"]), "its run folder"
        known_size = card.get("image_size")
        _check_classes(teacher, card, data)
    elif run.is_dir():
        raise InputError(f"--teacher {teacher} is a folder without model.json: not (yet) a finished run.")
    elif ":" not in teacher and ("/" in teacher or teacher.startswith((".", "~"))):
        raise InputError(f"--teacher {teacher}: there is no such run folder.")
    else:
        name = teacher
        network = _build_named(teacher, weights, data.num_classes)
        source = str(weights)
        statistics = models.input_statistics(network)
        usual = data.usual or (data.mean, data.std)
        known, origin = (statistics, "the network") if statistics else (usual, "the data")
    if mean is not None and std is not None:
        known, origin = (mean, std), "the options"

    size = image_size or known_size or data.image_size
    network = network.to(device).to(memory_format=torch.channels_last)  # as the batches are
    models.check_logits(
        network,
        f"teacher {teacher}",
        num_classes=data.num_classes,
        image_size=size,
        remedy="If it takes images of one size only, name that by --teacher_image_size.",
    )
    live = LiveTeacher(
        network,
        mean=data.mean,
        std=data.std,
        teacher_mean=known[0],
        teacher_std=known[1],
        image_size=None if size == data.image_size else size,
    ).to(device)
    if torch.device(device).type == "cpu":
        # On CUDA the bias is added by a kernel of its own, as batch norm is one: nothing would be gained.
        live.fold(size)
    report = TeacherReport(
        network=name,
        source=source,
        parameters=models.count_parameters(network),
        sha256=_hash(network),
        mean=[float(value) for value in known[0]],
        std=[float(value) for value in known[1]],
        normalization=origin,
        image_size=live.image_size,
    )
    return live, report


def run_folder(teacher: str) -> Path:
    """Return the run folder that a teacher names: `demo` is the one that ships with the package."""
    path = at_home(teacher)
    return SHIPPED if teacher == "demo" and not path.exists() else path


def load_run_network(run: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild the network of a finished run.

    Args:
        run: The run folder.

    Returns:
        The network with its weights, on the CPU, in eval mode; and the content of `model.json`.

    Raises:
        InputError: The folder is no finished run.
    """
    card = run_card(run)
    network = models.build(card["network"], card["num_classes"])
    models.load_weights(network, run / "student.safetensors")
    return network.eval(), card


def run_card(run: Path) -> dict[str, Any]:
    """Return what a finished run's `model.json` says of its network, or raise `InputError`."""
    file = run / "model.json"
    if run.is_file():
        raise InputError(f"{run} is a file; give the folder of a finished run.")
    card = read_json(file)
    if card is None:
        raise InputError(f"{run} is no finished run: it has no model.json.")
    missing = {"network", "num_classes", "mean", "std"} - card.keys()
    if missing:
        raise InputError(f"{file} lacks {', '.join(sorted(missing))}; it was not written by cmkd.")
    return card


def _build_named(name: str, weights: str | None, num_classes: int) -> nn.Module:
    if weights is None:
        models.build(name, num_classes)  # an unknown name is the likelier mistake: say so first
        raise InputError(
            f"--teacher {name} has no weights; give --teacher_weights FILE, or 'pretrained' for those of "
            "timm or torchvision, or 'random' to try things out."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # so that "random" is the same teacher whenever it is opened
        network = models.build(name, num_classes, pretrained=weights == "pretrained")
    if models.has_new_classifier(network):
        raise InputError(
            f"the pretrained weights of {name} are for other classes than the {num_classes} of the data; "
            f"`cmkd train --model {name} --weights pretrained` trains it on these classes; its run folder is "
            "then the teacher."
        )
    if weights not in ("pretrained", "random"):
        models.load_weights(network, Path(weights))
    return network


def _check_classes(teacher: str, card: dict[str, Any], data: ImageData) -> None:
    if card["num_classes"] != data.num_classes:
        raise InputError(
            f"teacher {teacher} has {card['num_classes']} classes, data set {data.name} has "
            f"{data.num_classes}; take a teacher that was trained on the same classes."
        )
    names = tuple(card.get("classes", data.classes))
    for index, (theirs, ours) in enumerate(zip(names, data.classes, strict=True)):
        if theirs != ours:
            raise InputError(
                f"class {index} is {theirs!r} to teacher {teacher} and {ours!r} in data set {data.name}; "
                "take a teacher that was trained on the same classes in the same order."
            )


def _hash(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

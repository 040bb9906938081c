"""Published test accuracies with their sources, and which of our networks and methods they are of.

The files beside this one have a row per figure: teacher, student and method as the tables spell them, top-1
accuracy in percent, source. They are of 240 epochs on CIFAR-100 and 100 on ImageNet, unless the method's name
says otherwise in brackets, and most codebases report the best epoch on the test set. Rows named `teacher` and
`student (CE)` are of the networks without distillation.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

from cmkd.models.families import own_name

#: What the tables say for networks without distillation, and what we call it.
_SPECIAL = {"student (CE)": "CE", "teacher": "teacher"}
#: ImageNet's networks by timm's and torchvision's names.
_IMAGENET = {"mobilenetv1": "mobilenetv1_100"}
_IMAGENET_FOLDERS = {"imagenet", "imagenet1k", "imagenet2012", "ilsvrc", "ilsvrc2012"}


@dataclass(frozen=True)
class Figure:
    """A published accuracy.

    Args:
        data: `cifar100` or `imagenet`.
        teacher: Teacher, as the tables spell it.
        student: Student, as the tables spell it.
        method: Method: a loss of ours, with `+LS` if the logits are standardised; `CE`, or `teacher`.
        note: What is particular about it, in the words of its row; mostly empty.
        accuracy: Share of the test images, in [0, 1].
        source: Where it is published.
    """

    data: str
    teacher: str
    student: str
    method: str
    note: str
    accuracy: float
    source: str

    def __str__(self) -> str:
        remarks = [self.source, *([self.note] if self.note else [])]
        return f"{100 * self.accuracy:.2f} ({'; '.join(remarks)})"


@cache
def figures() -> tuple[Figure, ...]:
    """Return every published figure, in the order of the files."""
    found = []
    for data in ("cifar100", "imagenet"):
        text = resources.files(__package__).joinpath(f"{data}.csv").read_text(encoding="utf-8")
        for row in csv.DictReader(text.splitlines()):
            method, note = row["method"], ""
            if method in _SPECIAL:
                method = _SPECIAL[method]
            elif bracket := re.fullmatch(r"(\S+) \((.+)\)", method):
                method, note = bracket[1], bracket[2]
            found.append(
                Figure(
                    data,
                    row["teacher"],
                    row["student"],
                    method,
                    note,
                    float(row["top1"]) / 100,
                    row["source"],
                )
            )
    return tuple(found)


def find(data: str, teacher: str | None, student: str | None, method: str) -> list[Figure]:
    """Return the figures that are published for a method on a pair of networks.

    Args:
        data: Data set, as the option `--data` names it.
        teacher: Teacher, by any name that `--teacher` or `--student` take; None for one that has no name.
        student: Student, likewise.
        method: A method as in `Figure.method`, in any case. For `teacher` the student does not matter, for
            `CE` the teacher does not.

    Returns:
        The figures, each once; several if sources or settings differ, none for what is not published.

    Example:
        >>> [str(figure) for figure in find("cifar100", "resnet56", "resnet20", "KD")]
        ['70.66 (RepDistiller README)']
    """
    table = data_set(data)
    ours = (network(table, teacher), network(table, student))
    found: dict[tuple[float, str, str], Figure] = {}
    for figure in figures():
        if figure.data != table or figure.method.casefold() != method.casefold():
            continue
        theirs = (
            network(table, _spelled(figure.teacher, table)),
            network(table, _spelled(figure.student, table)),
        )
        compared = {"teacher": (0,), "CE": (1,)}.get(figure.method, (0, 1))
        if all(ours[place] is not None and ours[place] == theirs[place] for place in compared):
            found.setdefault((figure.accuracy, figure.source, figure.note), figure)
    return list(found.values())


def data_set(data: str) -> str | None:
    """Return which table a data set belongs to: `cifar100`, `imagenet` or None.

    ImageNet is images of one's own to cmkd: it is recognised by a folder or a data set that is called
    `imagenet`, `imagenet-1k`, `ILSVRC2012` or the like.
    """
    if data == "cifar100":
        return data
    kind, _, place = data.partition(":")
    if kind not in {"folder", "wds", "hf"}:
        return None
    parts = {re.sub(r"[^a-z0-9]", "", part.lower()) for part in re.split(r"[/\\]", place)}
    return "imagenet" if parts & _IMAGENET_FOLDERS else None


@cache
def network(table: str | None, name: str | None) -> str | None:
    """Return one spelling for all names of a network.

    On CIFAR-100 names are those of cmkd's own networks, in any spelling that `cmkd.models.build` takes
    (`WRN-40-2`, `wrn_40_2`). On ImageNet they are those of timm and torchvision, without what
    names the weights: `torchvision:resnet18` and `timm:resnet18.a1_in1k` are the tables’ `ResNet18`.

    Args:
        table: `cifar100`, `imagenet` or None.
        name: Any name of a network.

    Returns:
        The spelling, or None for a network that the table does not know.
    """
    if table is None or name is None:
        return None
    if table == "cifar100":
        return own_name(name)
    source, colon, rest = name.partition(":")
    if not colon or source not in {"timm", "torchvision"}:
        return None
    plain = rest.lower().partition(".")[0]
    return _IMAGENET.get(plain, plain)


def _spelled(name: str, table: str | None) -> str:
    """Return a name of the tables as one of ours: those of ImageNet are networks of torchvision."""
    return f"torchvision:{name}" if table == "imagenet" else name

"""What stands at the head of a model card for machines to read."""

from __future__ import annotations

import re
from typing import Any

import yaml

from cmkd.errors import InputError
from cmkd.files import at_home
from cmkd.hub.scores import SCORES, Scores
from cmkd.report.records import Record
from cmkd.report.setting import shown

#: What data sets are called on the hub.
_ON_THE_HUB = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "fashion-mnist": "zalando-datasets/fashion_mnist",
    "fashion-mnist-12k": "zalando-datasets/fashion_mnist",
}


def front_matter(title: str, record: Record, scores: Scores, *, license: str | None) -> dict[str, Any]:
    """Return the head of a run's model card.

    Args:
        title: Name of the model.
        record: What the run folder says.
        scores: Its scores.
        license: The licence, as the hub names it; left out by default.

    Raises:
        InputError: The licence is no name.
    """
    distilled = record.config["verb"] == "distill"
    data = str(record.config["data"])
    on_hub = _on_the_hub(data)
    head: dict[str, Any] = {}
    if license is not None:
        head["license"] = _checked(license)
    head["library_name"] = "cmkd"
    head["pipeline_tag"] = "image-classification"
    head["tags"] = ["cmkd", *(["knowledge-distillation"] if distilled else []), "image-classification"]
    if on_hub:
        head["datasets"] = [on_hub]
    if scores.student:
        head["metrics"] = ["accuracy"]
        head["model-index"] = [{"name": title, "results": [_result(data, on_hub, record, scores)]}]
    return head


def read_front_matter(text: str) -> dict[str, Any]:
    """Return the head of a model card; empty if it has none, or none that can be read."""
    found = re.match(r"\s*---\r?\n(.*?)\r?\n---\s", text, flags=re.DOTALL)
    try:
        head = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return {}
    return head if isinstance(head, dict) else {}


def _on_the_hub(data: str) -> str | None:
    """Return what a data set is called on the hub; None if it is none of the hub's."""
    if not data.startswith("hf:"):
        return _ON_THE_HUB.get(data)
    name, _, _ = data.removeprefix("hf:").partition(":")  # NAME:CONFIG
    if any(at_home(each).exists() for each in (name, data.removeprefix("hf:"))):
        return None  # a folder of one's own
    return name if re.fullmatch(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", name) else None


def _checked(license: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise InputError(
            f"--license {license!r} is no name of a licence as the hub has them: mit, apache-2.0, "
            "cc-by-nc-4.0, other, ..."
        )
    return license


def _result(data: str, on_hub: str | None, record: Record, scores: Scores) -> dict[str, Any]:
    measured = {"epoch": "last", "seed": record.config.get("seed")}
    if scores.images is not None:
        measured["images"] = scores.images
    return {
        "task": {"type": "image-classification", "name": "Image classification"},
        "dataset": {
            "name": shown(data),
            "type": on_hub or shown(data).partition(":")[0],
            "split": scores.part,
            "args": measured,
        },
        "metrics": [
            {"name": f"{scores.part} {score.heading}", "type": score.kind, "value": scores.student[score.key]}
            for score in SCORES
            if score.key in scores.student
        ],
    }

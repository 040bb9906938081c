"""What a model card says of how good a network is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cmkd.report.records import Record, read_evaluation


@dataclass(frozen=True)
class Score:
    """A score: its key in `result.json`, its heading, how it is shown, and the hub's name for its kind."""

    key: str
    heading: str
    form: str
    kind: str

    def shown(self, values: Mapping[str, float]) -> str:
        """Return the score among these as text; nothing where it is not among them."""
        return self.form.format(values[self.key]) if self.key in values else ""


SCORES = (
    Score("accuracy", "accuracy", "{:.2%}", "accuracy"),
    Score("top5", "top-5 accuracy", "{:.2%}", "top_5_accuracy"),
    Score("nll", "negative log-likelihood (nats)", "{:.3f}", "nll"),
    Score("ece", "expected calibration error (15 bins)", "{:.3f}", "ece"),
    Score("agreement", "agreement with the teacher", "{:.2%}", "teacher_agreement"),
    Score("rank_correlation", "rank correlation with the teacher", "{:.3f}", "spearmanr"),
    Score("value_correlation", "value correlation with the teacher", "{:.3f}", "pearsonr"),
    Score("teacher_kl", "divergence (KL) from the teacher", "{:.3f}", "kl_divergence"),
)

LATENCY = Score("latency_ms", "one image on the CPU that trained it (ms)", "{:.2f}", "latency")


@dataclass(frozen=True)
class Scores:
    """The scores of a run.

    Attributes:
        part: Part of the data that they are of: `test` or `validation`.
        images: Number of its images, None if unknown.
        student: The scores by name; empty if nothing was measured.
        teacher: Its teacher's on the same images; empty if it was not at hand.
        setting: On what and how they were measured, a sentence.
        note: What `cmkd evaluate` adds, a sentence; may be empty.
    """

    part: str
    images: int | None
    student: dict[str, float]
    teacher: dict[str, float]
    setting: str
    note: str


def scores_of(record: Record) -> Scores:
    """Return the scores of a finished run: on the test set, or else on the validation part."""
    result = record.result or {}
    seed, precision = record.config.get("seed"), record.environment.get("precision", "unknown precision")
    how = f"the network of the last epoch, one run with seed {seed}, in {precision}"
    if "test" in result:
        images = result.get("images")
        count = f"{images:,} " if images else ""
        said = f"On the {count}test images, which decided nothing: {how}."
        note = _interval(record)
        return Scores("test", images, _timed(result, "test"), result.get("teacher", {}), said, note)
    said = f"On the validation part, as the test set was not looked at: {how}."
    return Scores("validation", None, _timed(result, "last_validation"), {}, said, "")


def _timed(result: dict[str, Any], part: str) -> dict[str, float]:
    """Return the student's scores on a part of the data, with its latency; empty if nothing was measured."""
    found = result.get(part)
    return {**found, LATENCY.key: result[LATENCY.key]} if found else {}


def _interval(record: Record) -> str:
    """Return what `cmkd evaluate` found of the accuracy's uncertainty; nothing if it was not asked."""
    found = read_evaluation(record)
    if found is None:
        return ""
    try:
        top1 = found["accuracy"]["student"]["top1"]
        return (
            f"`cmkd evaluate` measured an accuracy of {top1['value']:.2%} in float32 on "
            f"{found['setting']['images']:,} images, with a 95 % confidence interval of {top1['low']:.2%} to "
            f"{top1['high']:.2%} (Wilson), which says nothing of other seeds."
        )
    except (ValueError, KeyError, TypeError):  # by another version
        return ""

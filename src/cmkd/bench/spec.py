"""What a grid is made of."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cmkd.bench.names import pair_name


@dataclass(frozen=True)
class Teacher:
    """A teacher of the grid.

    Attributes:
        name: Its name in the file.
        train: Options of `cmkd train`, by which the grid trains it; None if it is given.
        given: What the file says of one that is given: `run`, or `network` and `weights`.
    """

    name: str
    train: dict[str, Any] | None = None
    given: dict[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """What `cmkd distill` and `cmkd cache` are told of one that is given."""
        if "run" in self.given:
            return {"teacher": self.given["run"]}
        return {
            "teacher" if key == "network" else f"teacher_{key}": value for key, value in self.given.items()
        }


@dataclass(frozen=True)
class Pair:
    """A teacher and a student.

    Attributes:
        teacher: Name of the teacher.
        student: The student's network.
        options: Options of this pair's cells.
        methods: Method -> options of its cells of this pair.
    """

    teacher: str
    student: str
    options: dict[str, Any] = field(default_factory=dict)
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its folder's name."""
        return pair_name(self.teacher, self.student)


@dataclass(frozen=True)
class Tuning:
    """How options of methods are chosen, on the validation part alone.

    Attributes:
        pair: The pair that is tried on; what is found serves all.
        seeds: Seeds of every trial.
        options: Options of trials alone, such as a shorter schedule.
        trials: Method -> the options that are tried, one after the other.
    """

    pair: Pair
    seeds: list[int]
    options: dict[str, Any]
    trials: dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Spec:
    """A grid of runs.

    Attributes:
        name: Its name; that of the file if it has none of its own.
        options: Options of every cell.
        teachers: The teachers by name.
        cache: Options of `cmkd cache`; None for teachers that run beside their students.
        pairs: Who teaches whom.
        methods: Method -> its options.
        seeds: Seeds of every cell.
        tuning: What is tried out before; None for nothing.
    """

    name: str
    options: dict[str, Any]
    teachers: dict[str, Teacher]
    cache: dict[str, Any] | None
    pairs: list[Pair]
    methods: dict[str, dict[str, Any]]
    seeds: list[int]
    tuning: Tuning | None

    def as_dict(self) -> dict[str, Any]:
        """Return the grid as a file that describes the same one, with everything that was left out there."""
        said: dict[str, Any] = {
            "name": self.name,
            "options": self.options,
            "teachers": {each.name: each.train or each.given for each in self.teachers.values()},
            **({} if self.cache is None else {"cache": self.cache}),
            "pairs": [
                {
                    "teacher": pair.teacher,
                    "student": pair.student,
                    **({"options": pair.options} if pair.options else {}),
                    **({"methods": pair.methods} if pair.methods else {}),
                }
                for pair in self.pairs
            ],
            "methods": self.methods,
            "seeds": self.seeds,
        }
        if self.tuning is not None:
            said["tuning"] = {
                "pair": {"teacher": self.tuning.pair.teacher, "student": self.tuning.pair.student},
                "seeds": self.tuning.seeds,
                "options": self.tuning.options,
                "trials": self.tuning.trials,
            }
        return copy.deepcopy(said)


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Lay options over each other; those of `loss` one by one, unless it is another method's."""
    together: dict[str, Any] = {}
    for layer in layers:
        below = together.get("loss", {})
        together |= layer
        if "loss" in layer:
            above = layer["loss"]
            same = above.get("name", below.get("name")) == below.get("name")
            together["loss"] = {**below, **above} if same else dict(above)
    return together

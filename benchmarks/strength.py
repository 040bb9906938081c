"""What students reach under teachers of growing strength, seed by seed: the numbers of figure 1 as a table.

    python benchmarks/strength.py runs/choices/cells/*/{KD,CMKD}/* runs/strength/cells/*/*/*

Takes the runs of two methods, cells of grids, and prints a row per teacher: both methods' test accuracy and
the difference of the second to the first, with its 95 % interval over the seeds; the same on elastically
transformed test images, where `cmkd evaluate RUN --corruptions elastic_transform --severities 3` was asked.
Below it every method's gain per point that the teacher is better: the slope of a straight line through its
runs, fitted for each seed; the difference of the second method's slope to the first's; and the same without
each of the teachers in turn.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from written import markdown_table

from cmkd.bench.reporting.wording import interval, percent
from cmkd.errors import InputError
from cmkd.report.records import Record, read_evaluation, read_run
from cmkd.report.statistics import Sample, paired_difference
from cmkd.report.table import teacher_names
from cmkd.training.details import ELASTIC, ELASTIC_SEVERITY

#: Teacher, by its hash -> its students' accuracies by seed.
Accuracies = dict[str, Sample]


def clean(run: Record) -> float | None:
    """Return the test accuracy of a run."""
    return run.measured("test", "accuracy")


def transformed(run: Record) -> float | None:
    """Return the accuracy on all test images, elastically transformed; None if it was not measured."""
    found = (read_evaluation(run) or {}).get("robustness")
    if found is None or ELASTIC_SEVERITY not in found["severities"] or ELASTIC not in found["corruptions"]:
        return None
    if found["images"] < found["of"]:
        raise InputError(
            f"{run.path} was measured on {found['images']:,} of {found['of']:,} transformed images; "
            "evaluate it on all of them."
        )
    place = found["severities"].index(ELASTIC_SEVERITY)
    return float(found["corruptions"][ELASTIC]["accuracy"]["student"][place])


def strengths(runs: Sequence[Record]) -> dict[str, float]:
    """Return the teachers' test accuracies, the weakest first."""
    found = {_hash(run): accuracy for run in runs if (accuracy := run.measured("teacher", "accuracy"))}
    return dict(sorted(found.items(), key=lambda each: each[1]))


def _hash(run: Record) -> str:
    return str((run.teacher or {})["sha256"])


def collect(runs: Sequence[Record], accuracy: Callable[[Record], float | None]) -> Accuracies:
    """Return what the runs of a method reached."""
    found: dict[str, dict[int, float]] = {}
    for run in runs:
        if (value := accuracy(run)) is not None:
            seeds = found.setdefault(_hash(run), {})
            if run.config["seed"] in seeds:
                raise InputError(f"{run.path} is a second run of its seed under this teacher; leave one out.")
            seeds[run.config["seed"]] = value
    return {teacher: Sample(values) for teacher, values in found.items()}


def slopes(accuracies: Accuracies, teachers: dict[str, float]) -> Sample:
    """Return for every seed the slope of its students' accuracies over their teachers'."""
    seeds = set.intersection(*(set(accuracies[teacher].values) for teacher in teachers))
    return Sample(
        {
            seed: statistics.linear_regression(
                list(teachers.values()), [accuracies[teacher].values[seed] for teacher in teachers]
            ).slope
            for seed in sorted(seeds)
        }
    )


def tables(folders: Sequence[Path]) -> str:
    """Return both tables of the runs of two methods."""
    runs = [read_run(folder) for folder in folders]
    methods: dict[str, list[Record]] = {}
    for run in runs:
        methods.setdefault(run.path.parent.name, []).append(run)
    teachers, names = strengths(runs), teacher_names(methods)
    if len(methods) != 2 or len(teachers) < 2:
        raise InputError(
            f"these are runs of {', '.join(methods)} under {len(teachers)} teachers whose accuracy is known; "
            "give runs of two methods under two teachers or more."
        )
    first, second = methods
    rows = [[names[teacher], f"{100 * accuracy:.2f}"] for teacher, accuracy in teachers.items()]
    headings, gains = ["teacher", "its accuracy (%)"], []
    for title, accuracy in (("", clean), (", transformed", transformed)):
        theirs, mine = (collect(methods[method], accuracy) for method in methods)
        if not teachers.keys() <= theirs.keys() & mine.keys():
            continue
        headings += [f"{first}{title} (%)", f"{second}{title} (%)", f"difference{title} (points), 95 % CI"]
        for row, teacher in zip(rows, teachers, strict=True):
            difference = paired_difference(mine[teacher], theirs[teacher])
            row += [percent(theirs[teacher]), percent(mine[teacher]), interval(difference)]
        images = title.strip(", ") or "clean"
        gains.append([images, *_gains(theirs, mine, teachers)])
        for left_out in teachers if len(teachers) > 3 else ():
            others = {teacher: each for teacher, each in teachers.items() if teacher != left_out}
            gains.append([f"{images}, without {names[left_out]}", *_gains(theirs, mine, others)])
    return (
        f"{markdown_table(headings, rows)}\n\n"
        f"{markdown_table(['test images', first, second, 'difference'], gains)}"
    )


def _gains(theirs: Accuracies, mine: Accuracies, teachers: dict[str, float]) -> list[str]:
    """Return the slopes of both methods and their difference, in points per point."""
    of_both = [slopes(accuracies, teachers) for accuracies in (theirs, mine)]
    # `interval` takes shares and shows points.
    one, other = (Sample({seed: each / 100 for seed, each in of.values.items()}) for of in of_both)
    return [interval(one), interval(other), interval(paired_difference(other, one))]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="Run folders, cells of grids, of two methods.")
    try:
        print(tables(parser.parse_args().runs))
    except InputError as error:
        parser.error(str(error))

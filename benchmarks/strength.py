"""What students reach under teachers of growing strength, seed by seed: the numbers of figure 1 as a table.

    python benchmarks/strength.py runs/choices/cells/*/{KD,CMKD}/* runs/strength/cells/*/*/*

Takes the runs of two methods, cells of grids, and prints a row per teacher: both methods' test accuracy and
the difference of the second to the first, with its 95 % interval over the seeds; the same on elastically
transformed test images, where `cmkd evaluate RUN --corruptions elastic_transform --severities 3` was asked.
Below it every method's gain per point that the teacher is better: the slope of a straight line through its
runs, fitted for each seed; and the difference of the second method's slope to the first's.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

from written import markdown_table

from cmkd.bench.reporting.wording import interval, percent
from cmkd.report.records import Record, read_evaluation, read_run
from cmkd.report.statistics import Sample, paired_difference
from cmkd.training.details import ELASTIC, ELASTIC_SEVERITY

#: Teacher -> seed -> accuracy.
Accuracies = dict[str, Sample]


def clean(run: Record) -> float | None:
    """Return the test accuracy of a run."""
    return run.measured("test", "accuracy")


def transformed(run: Record) -> float | None:
    """Return the accuracy of a run on elastically transformed test images; None if it was not measured."""
    found = (read_evaluation(run) or {}).get("robustness")
    if found is None or ELASTIC_SEVERITY not in found["severities"] or ELASTIC not in found["corruptions"]:
        return None
    place = found["severities"].index(ELASTIC_SEVERITY)
    return float(found["corruptions"][ELASTIC]["accuracy"]["student"][place])


def strengths(runs: list[Record]) -> dict[str, float]:
    """Return the teachers' test accuracies, the weakest first."""
    found = {name(run): run.measured("teacher", "accuracy") or 0.0 for run in runs}
    return dict(sorted(found.items(), key=lambda each: each[1]))


def name(run: Record) -> str:
    """Return what the teacher of a run is called."""
    return str((run.teacher or {})["network"])


def collect(
    runs: list[Record], method: str, teachers: dict[str, float], accuracy: Callable[[Record], float | None]
) -> Accuracies:
    """Return what a method's runs reached."""
    found: dict[str, dict[int, float]] = {teacher: {} for teacher in teachers}
    for run in runs:
        if run.path.parent.name == method and (value := accuracy(run)) is not None:
            found[name(run)][run.config["seed"]] = value
    return {teacher: Sample(values) for teacher, values in found.items()}


def slopes(accuracies: Accuracies, teachers: dict[str, float]) -> Sample:
    """Return for every seed the slope of its students' accuracies over their teachers'."""
    seeds = set.intersection(*(set(sample.values) for sample in accuracies.values()))
    return Sample(
        {
            seed: statistics.linear_regression(
                list(teachers.values()), [accuracies[teacher].values[seed] for teacher in teachers]
            ).slope
            for seed in sorted(seeds)
        }
    )


def tables(folders: list[Path]) -> str:
    """Return both tables of runs of two methods."""
    runs = [read_run(folder) for folder in folders]
    teachers = strengths(runs)
    first, second = dict.fromkeys(run.path.parent.name for run in runs)
    rows: list[list[str]] = [[teacher, f"{100 * accuracy:.2f}"] for teacher, accuracy in teachers.items()]
    headings = ["teacher", "its accuracy (%)"]
    gains: list[list[str]] = []
    for title, accuracy in (("", clean), (", transformed", transformed)):
        mine, theirs = (collect(runs, method, teachers, accuracy) for method in (second, first))
        if not any(sample.values for sample in mine.values()):
            continue
        headings += [f"{first}{title} (%)", f"{second}{title} (%)", f"difference{title} (points), 95 % CI"]
        for row, teacher in zip(rows, teachers, strict=True):
            difference = paired_difference(mine[teacher], theirs[teacher])
            row += [percent(theirs[teacher]), percent(mine[teacher]), interval(difference)]
        slope = [slopes(accuracies, teachers) for accuracies in (theirs, mine)]
        # A slope is points per point, which the words for accuracies would take for a hundredth of it.
        plain = [Sample({seed: each / 100 for seed, each in sample.values.items()}) for sample in slope]
        images = title.strip(", ") or "clean"
        gains.append([images, *map(interval, plain), interval(paired_difference(plain[1], plain[0]))])
    headings_of_gains = ["test images", first, second, "difference"]
    return f"{markdown_table(headings, rows)}\n\n{markdown_table(headings_of_gains, gains)}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="Run folders, cells of grids, of two methods.")
    print(tables(parser.parse_args().runs))

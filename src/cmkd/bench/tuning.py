"""Choosing options: by the accuracy on the validation part, among as many trials for every method."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from cmkd.bench.folder import GridFolder
from cmkd.bench.plan import Job, Plan
from cmkd.errors import InputError


def trials(plan: Plan, folder: GridFolder) -> dict[str, dict[str, Any]]:
    """Return what came of the trials of every method whose trials are all finished.

    The one with the highest accuracy on the validation part is chosen, that of the last epoch, mean over the
    seeds; of equal ones the first. The test set is not opened by trials at all.

    Args:
        plan: The grid.
        folder: Its folder.

    Returns:
        What `tuned.json` has under `methods`.

    Raises:
        InputError: A trial was not judged on a validation part.
    """
    if plan.spec.tuning is None:
        return {}
    methods: dict[str, dict[str, Any]] = {}
    for method, tried in plan.spec.tuning.trials.items():
        jobs = plan.trials_of(method)
        if not all(folder.state(job) == "finished" for job in jobs):
            continue
        found, means = [], []
        for number, options in enumerate(tried):
            own = {
                str(job.labels["seed"]): _accuracy(folder, job)
                for job in jobs
                if job.labels["trial"] == number
            }
            means.append(statistics.fmean(own.values()))
            found.append({"trial": number, "options": options, "accuracy": means[-1], "accuracies": own})
        best = means.index(max(means))
        methods[method] = {"trials": found, "chosen": best, "options": tried[best]}
    return methods


def chosen(methods: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return method -> the chosen options, of what `trials` returned."""
    return {method: found["options"] for method, found in methods.items()}


def choose(plan: Plan, folder: GridFolder) -> dict[str, dict[str, Any]]:
    """Decide on every method whose trials are all finished, write `tuned.json`, return what was chosen."""
    methods, tuning = trials(plan, folder), plan.spec.tuning
    # Without a method as well if there is one: added trials leave undecided what was decided before.
    if tuning is not None and (methods or (folder.path / "tuned.json").exists()):
        folder.write_json(
            "tuned.json",
            {
                "version": 1,
                "part": "validation",
                "pair": {"teacher": tuning.pair.teacher, "student": tuning.pair.student},
                "seeds": tuning.seeds,
                "options": tuning.options,
                "methods": methods,
            },
        )
    return chosen(methods)


def _accuracy(folder: GridFolder, job: Job) -> float:
    result = folder.run(job).read_json("result.json")
    try:
        return float(result["last_validation"]["accuracy"])
    except KeyError:
        raise InputError(
            f"{folder.path / job.name} was not judged on a validation part; remove it, and repeat."
        ) from None

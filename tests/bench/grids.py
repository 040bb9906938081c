"""Folders of grids with known numbers, as `cmkd bench` would have left them."""

import json

import yaml

from tests.report.synthetic import write_run

PAIR = ("resnet56", "resnet20")


def cell_name(teacher, student, method, seed):
    return f"cells/{teacher}--{student}/{method}/seed{seed}"


def write_grid(root, accuracies, *, epochs=3, data="cifar100", each_epoch=False, failures=None, tuned=None):
    """Write a grid.

    Args:
        root: Its folder.
        accuracies: Teacher and student -> method -> seed -> test accuracy of the last epoch, None for a cell
            that was not begun.
        epochs: Epochs of every cell.
        data: Data set.
        each_epoch: Whether the runs looked at the test set in every epoch; it was best in the first but one,
            by 0.02.
        failures: Content of `failures.json`.
        tuned: Content of `tuned.json`.
    """
    cells = []
    for (teacher, student), methods in accuracies.items():
        for method, seeds in methods.items():
            for seed, accuracy in seeds.items():
                name = cell_name(teacher, student, method, seed)
                cells.append(
                    {
                        "name": name,
                        "teacher": teacher,
                        "student": student,
                        "method": method,
                        "seed": seed,
                        "folder": name,
                        "options": {"loss": {"name": method}},
                    }
                )
                if accuracy is not None:
                    run = write_run(root / name, method, accuracy=accuracy, seed=seed, epochs=epochs)
                    _as_cell(run, teacher, student, data, each_epoch=each_epoch)
                    log = root / "logs" / f"{name}.log"
                    log.parent.mkdir(parents=True, exist_ok=True)
                    log.write_text("epoch 1\n")
    grid = {"version": 1, "name": "a grid", "spec": "grid.yaml", "trials": [], "cells": cells}
    root.mkdir(exist_ok=True)
    (root / "grid.json").write_text(json.dumps(grid))
    for file, content in {"failures.json": failures, "tuned.json": tuned}.items():
        if content is not None:
            (root / file).write_text(json.dumps(content))
    return root


def _as_cell(run, teacher, student, data, *, each_epoch):
    edit_config(run, data=data, student=student, teacher=f"runs/grid/teachers/{teacher}")
    card = json.loads((run / "teacher.json").read_text())
    (run / "teacher.json").write_text(
        json.dumps({**card, "network": teacher, "sha256": teacher.ljust(64, "0")})
    )
    (run / "report.html").write_text("<p>curves</p>")
    if each_epoch:
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        last = json.loads((run / "result.json").read_text())["test"]["accuracy"]
        for row in rows:
            before = len(rows) - row["epoch"]
            row["test"] = {"accuracy": {0: last, 1: last + 0.02}.get(before, last - 0.1)}
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def edit_config(run, **changes):
    """Change options in the `config.yaml` of a run folder."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, **changes}, sort_keys=False))

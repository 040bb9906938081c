"""Small grids, written to a file as a user would."""

import copy

import yaml

#: 2 teachers x 2 students x 3 methods x 2 seeds = 24 cells; 2 methods x 2 trials x 1 seed = 4 trials.
GRID = {
    "options": {"epochs": 2, "batch_size": 16, "cpu": True},
    "teachers": {
        "big": {"model": "resnet14", "lr": 0.2},
        "given": {"network": "resnet8", "weights": "random"},
    },
    "teacher_options": {"epochs": 3},
    "students": ["resnet8", "resnet14"],
    "methods": {"CE": {}, "KD": {"loss": {"temperature": 2}}, "mine": {"loss": {"name": "CMKD"}}},
    "seeds": [0, 1],
    "tuning": {
        "options": {"epochs": 1},
        "trials": {
            "KD": [{"loss": {"alpha": 0.5}}, {"loss": {"alpha": 0.9}}],
            "mine": [{"loss": {"alpha": 2}}, {"lr": 0.3}],
        },
    },
}


def changed(*changes):
    """Return the grid with changes: `("methods.KD.loss", {...})`, or `("tuning",)` to leave a part out."""
    grid = copy.deepcopy(GRID)
    for place, *values in changes:
        *path, last = place.split("/")
        part = grid
        for key in path:
            part = part[key]
        if values:
            part[last] = values[0]
        else:
            del part[last]
    return grid


def write_spec(folder, content, name="grid.yaml"):
    file = folder / name
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return file

import copy
import json

import pytest

from cmkd.bench.reporting.results import read_grid
from cmkd.bench.reporting.tuning import trial_rows, tuning
from tests.bench.grids import PAIR, write_grid

TUNED = {
    "version": 1,
    "part": "validation",
    "pair": {"teacher": "resnet56", "student": "resnet20"},
    "seeds": [100, 101],
    "options": {"epochs": 2},
    "methods": {
        "KD": {
            "trials": [
                {"trial": 0, "options": {"loss": {"tau": 2}}, "accuracy": 0.5, "accuracies": {}},
                {"trial": 1, "options": {"loss": {"tau": 4}}, "accuracy": 0.5234, "accuracies": {}},
            ],
            "chosen": 1,
            "options": {"loss": {"tau": 4}},
        }
    },
}


def tuned_grid(root, trials, tuned=TUNED):
    accuracies = {method: {0: 0.7} for method in ("CE", "KD", "CMKD")}
    grid = write_grid(root, {PAIR: accuracies}, tuned=tuned)
    content = json.loads((grid / "grid.json").read_text())
    content["trials"] = [
        {"name": "x", "teacher": PAIR[0], "student": PAIR[1], "method": method, "trial": trial, "seed": seed}
        for method, count in trials.items()
        for trial in range(count)
        for seed in (100, 101)
    ]
    (grid / "grid.json").write_text(json.dumps(content))
    return read_grid(grid)


def test_trials_their_scores_and_the_choice_are_told(tmp_path):
    assert tuning(tuned_grid(tmp_path / "grid", {"KD": 2, "CMKD": 2})) == (
        "on the validation part alone, resnet56 → resnet20, seeds 100, 101, accuracy of the last epoch; "
        "trials alone had epochs 2; KD: 2 trials, chosen tau 4; "
        "CMKD: 2 trials, not all finished; no trials: CE"
    )


def test_every_trial_has_its_score(tmp_path):
    tuned = copy.deepcopy(TUNED)
    tuned["methods"]["CMKD"] = {
        "trials": [{"trial": 0, "options": {"loss": {"alpha": 8}}, "accuracy": 0.6, "accuracies": {}}],
        "chosen": 0,
        "options": {"loss": {"alpha": 8}},
    }
    assert trial_rows(tuned_grid(tmp_path / "grid", {"KD": 2, "CMKD": 1}, tuned)) == [
        {"method": "KD", "trial 1": "tau 2: 50.00", "trial 2": "tau 4: 52.34 (chosen)"},
        {"method": "CMKD", "trial 1": "alpha 8: 60.00 (chosen)", "trial 2": "–"},
    ]


def test_unequal_numbers_of_trials_are_told(tmp_path):
    assert "different numbers of trials" in tuning(tuned_grid(tmp_path / "grid", {"KD": 2, "CMKD": 3}))


@pytest.mark.parametrize("tuned", [None, TUNED])
def test_trials_that_have_not_begun_are_told(tmp_path, tuned):
    said = tuning(tuned_grid(tmp_path / "grid", {"CMKD": 1}, tuned))
    assert "CMKD: 1 trial, not all finished" in said
    assert "no trials: CE, KD" in said


def test_a_grid_without_trials_says_so(tmp_path):
    grid = tuned_grid(tmp_path / "grid", {}, None)
    assert tuning(grid).startswith("None: every method has the options")
    assert trial_rows(grid) == []

"""The grids that are committed can be read, and hold the cells that they are meant to."""

from pathlib import Path

import pytest

from cmkd import models
from cmkd.bench.reading import read_spec

SPECS = Path(__file__).parents[2] / "benchmarks/specs"
#: File -> pairs x methods x seeds, counted by hand.
CELLS = {
    "smoke": 1 * 3 * 2,
    "cifar100-table": 12 * 27 * 3,
    "cifar100-ablation": 1 * 9 * 3,
    "cifar100-choices": 1 * 8 * 3,
    "cifar100-strength": 3 * 2 * 3,
    "cifar100-strength-resnet8": 3 * 2 * 3,
    "fashion-mnist-alpha": 1 * 5 * 3,
    "cifar100-combine": 2 * 17 * 3,
    "imagenet-table": 8 * 6 * 3,
}


def test_none_is_left_out():
    assert {file.stem for file in SPECS.glob("*.yaml")} == set(CELLS)


@pytest.mark.parametrize("name", CELLS)
def test_cells(name):
    spec = read_spec(SPECS / f"{name}.yaml")
    assert len(spec.pairs) * len(spec.methods) * len(spec.seeds) == CELLS[name]


def test_the_pairs_of_the_tables_are_networks():
    spec = read_spec(SPECS / "cifar100-table.yaml")
    assert {pair.student for pair in spec.pairs} <= {size.name for size in models.sizes()} | {
        "wrn_16_2",
        "wrn_40_1",
    }


def test_tuning_is_equal():
    trials = read_spec(SPECS / "cifar100-ablation.yaml").tuning.trials
    assert {len(each) for each in trials.values()} == {6}
    assert set(trials) == set(read_spec(SPECS / "cifar100-ablation.yaml").methods) - {"CE"}

"""A grid's file: what it means, and what is said to what it may not hold."""

from pathlib import Path

import pytest
import yaml

from cmkd.bench.plan import expand
from cmkd.bench.reading import read_spec
from cmkd.bench.sections import read_file
from cmkd.bench.spec import merged
from cmkd.errors import InputError
from tests.bench.specs import GRID, changed, write_spec

SPECS = Path(__file__).parents[2] / "benchmarks/specs"


def test_what_a_file_means(tmp_path):
    spec = read_spec(write_spec(tmp_path, GRID))
    assert spec.name == "grid"
    assert spec.teachers["big"].train == {
        "model": "resnet14",
        "epochs": 3,  # of teacher_options
        "batch_size": 16,  # of options
        "cpu": True,
        "seed": 0,
        "lr": 0.2,
    }
    assert spec.teachers["given"].options == {"teacher": "resnet8", "teacher_weights": "random"}
    assert [(pair.teacher, pair.student) for pair in spec.pairs] == [
        ("big", "resnet8"),
        ("big", "resnet14"),
        ("given", "resnet8"),
        ("given", "resnet14"),
    ]
    assert spec.methods == {
        "CE": {"loss": {"name": "CE"}},
        "KD": {"loss": {"name": "KD", "temperature": 2.0}},
        "mine": {"loss": {"name": "CMKD"}},
    }
    assert spec.cache is None
    assert spec.tuning.pair == spec.pairs[0]
    assert spec.tuning.seeds == [100]


def test_what_is_kept_describes_the_same_grid(tmp_path):
    pairs = [
        {"teacher": "given", "student": "resnet8", "methods": {"KD": {"loss": {"alpha": 0.3}}}},
        {"teacher": "big", "student": "resnet8", "options": {"lr": 0.01}},
    ]
    spec = read_spec(write_spec(tmp_path, changed(("students",), ("pairs", pairs), ("cache", {"views": 2}))))
    again = read_spec(write_spec(tmp_path, spec.as_dict(), "kept.yaml"))
    assert again == spec
    assert spec.options["augment_seed"] == spec.cache["augment_seed"] == 0


def test_numbers_are_what_yaml_makes_of_them_and_more(tmp_path):
    """PyYAML takes 1e-3 for a text."""
    spec = read_spec(write_spec(tmp_path, yaml.safe_dump(GRID).replace("lr: 0.2", "lr: 1e-3")))
    assert spec.teachers["big"].train["lr"] == 0.001


def test_numbers_of_methods_are_numbers_wherever_they_stand(tmp_path):
    of_pair = {"loss": {"alpha": "5e-1"}, "with": [{"name": "AT", "weight": "1e3"}]}
    pairs = [{"teacher": "big", "student": "resnet8", "methods": {"KD": of_pair}}]
    grid = changed(
        ("students",),
        ("pairs", pairs),
        ("tuning/trials/KD", [{"loss": {"alpha": "1e-3"}, "lr": "1e-2"}, {"loss": {"temperature": 2}}]),
    )
    spec = read_spec(write_spec(tmp_path, grid))
    assert spec.pairs[0].methods == {
        "KD": {"loss": {"alpha": 0.5}, "with": [{"name": "AT", "weight": 1000.0}]}
    }
    assert spec.tuning.trials["KD"] == [{"loss": {"alpha": 0.001}, "lr": 0.01}, {"loss": {"temperature": 2}}]
    assert str(spec.tuning.trials["KD"][1]["loss"]["temperature"]) == "2"  # as reports show it


def test_only_what_is_tried_needs_a_validation_part(tmp_path):
    spec = read_spec(write_spec(tmp_path, changed(("methods/CE/validation", 0))))
    assert spec.methods["CE"]["validation"] == 0
    both = changed(("options/validation", 0), ("tuning/options/validation", 0.2))
    assert read_spec(write_spec(tmp_path, both)).tuning.options["validation"] == 0.2


def test_mappings_may_be_merged(tmp_path):
    text = """
        options: &options {epochs: 2, batch_size: 16}
        students: [resnet8]
        seeds: [0]
        teacher_options: &short {<<: *options, epochs: 3}
        teachers:
          big: &big {<<: *short, model: resnet14, epochs: 4}
        methods:
          CE: {<<: [*options], lr: 0.2}
          KD: {}
        tuning:
          trials: {KD: [{<<: *options, epochs: 5}]}
          options: {epochs: 6}
    """
    spec = read_spec(write_spec(tmp_path, text))
    assert (spec.teachers["big"].train["epochs"], spec.teachers["big"].train["model"]) == (4, "resnet14")
    assert spec.methods["CE"] == {"epochs": 2, "batch_size": 16, "lr": 0.2, "loss": {"name": "CE"}}
    assert spec.tuning.trials["KD"] == [{"epochs": 5, "batch_size": 16}]


def test_a_mapping_that_is_merged_before_it_is_made(tmp_path):
    """The one under `KD` stands deeper than what takes it over, so that PyYAML merges it first."""
    text = """
        a: &a {x: 1}
        b: {KD: &kd {<<: *a, x: 2}}
        c: {<<: *kd}
    """
    content = read_file(write_spec(tmp_path, text)).content
    assert content == {"a": {"x": 1}, "b": {"KD": {"x": 2}}, "c": {"x": 2}}


def test_options_of_a_loss_lie_over_each_other_one_by_one():
    kd = {"loss": {"name": "KD", "temperature": 4}, "lr": 0.1}
    assert merged(kd, {"loss": {"alpha": 0.5}}) == {
        "loss": {"name": "KD", "temperature": 4, "alpha": 0.5},
        "lr": 0.1,
    }
    assert merged(kd, {"loss": {"name": "DKD"}, "lr": 0.2}) == {"loss": {"name": "DKD"}, "lr": 0.2}
    assert kd == {"loss": {"name": "KD", "temperature": 4}, "lr": 0.1}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([("optins", {})], ["`optins`", "options"]),
        ([("options/epohcs", 3)], ["`options.epohcs`", "epochs"]),
        ([("options/student", "resnet8")], ["`options.student`", "does not exist"]),
        ([("options/seed", 1)], ["`options.seed`", "allowed"]),
        ([("options/epochs", "many")], ["`options`", "epochs", "many"]),
        ([("options", [1])], ["`options` is [1]", "mapping"]),
        ([("options/epochs", 0)], ["--epochs is 0"]),
        ([("options/test", "sometimes")], ["`options`", "test", "sometimes"]),
        ([("teachers", {})], ["`teachers` is empty"]),
        ([("teachers/big", {"modle": "resnet8"})], ["`teachers.big.modle`", "model"]),
        ([("teachers/big", {"lr": -1})], ["`teachers.big`", "--lr is -1"]),
        ([("teachers/big", {"run": "a", "lr": 1})], ["`teachers.big.lr`", "run"]),
        ([("teachers/big", {"run": 3})], ["`teachers.big.run`", "demo"]),
        ([("teachers/given", {"network": "resnet8"})], ["`teachers.given.weights`", "pretrained"]),
        ([("teachers/given/mean", "light")], ["`teachers.given`", "light"]),
        ([("teachers/BIG", {})], ["'big'", "'BIG'", "capitals"]),
        ([("students", "resnet8")], ["`students`", "list"]),
        ([("students", ["resnet8", "resnet8"])], ["`students`", "'resnet8' twice"]),
        ([("students", ["ResNet8", "resnet8"])], ["`students`", "'ResNet8' and 'resnet8'", "capitals"]),
        ([("students", [""])], ["`students`", "empty name"]),
        (
            [("students",), ("pairs", [{"teacher": "big", "student": each} for each in ("VGG8", "vgg8")])],
            ["`pairs`", "'VGG8' and 'vgg8'", "capitals"],
        ),
        ([("students", [8])], ["`students`", "8"]),
        ([("students",)], ["`students` and `pairs`"]),
        ([("pairs", [{"teacher": "big", "student": "resnet8"}])], ["`students` and `pairs`"]),
        (
            [("students",), ("pairs", [{"teacher": "bgi", "student": "resnet8"}])],
            ["`pairs[0].teacher`", "big"],
        ),
        ([("students",), ("pairs", [{"teacher": "big"}])], ["`pairs[0].student`", "network"]),
        ([("students",), ("pairs", [{"teacher": "big", "student": "a"}] * 2)], ["`pairs`", "twice"]),
        (
            [("students",), ("pairs", [{"teacher": "big", "student": "a", "methods": {"DKD": {}}}])],
            ["`pairs[0].methods.DKD`", "KD"],
        ),
        ([("methods", {})], ["`methods` is empty"]),
        ([("methods/reversed", {})], ["`methods.reversed.loss` has no name", "CMKD"]),
        ([("methods/KD/loss", {"name": "KDD"})], ["`methods.KD`", "KDD"]),
        ([("methods/KD/loss", {"temprature": 1})], ["`methods.KD`", "temprature", "temperature"]),
        ([("methods/KD/loss", {"temperature": "hot"})], ["`methods.KD`", "temperature", "hot"]),
        ([("methods/KD/loss", {"temperature": -1})], ["`methods.KD`", "temperature", "-1"]),
        ([("methods/KD/loss", {"weight": 2})], ["`methods.KD`", "weight"]),
        ([("methods/KD/loss", "KD")], ["`methods.KD.loss`", "{name: CMKD"]),
        ([("methods/KD/with", "AT")], ["`methods.KD.with`", "[{name: ReviewKD}]"]),
        ([("methods/KD/with", [{"name": "AT", "wieght": 1}])], ["`methods.KD`", "wieght", "weight"]),
        ([("methods/KD/seed", 1)], ["`methods.KD.seed`", "allowed"]),
        ([("methods/KD/warmup_epochs", 5)], ["`methods.KD`", "--warmup_epochs is 5"]),
        ([("seeds",)], ["`seeds` is None", "[0, 1, 2]"]),
        ([("seeds", [])], ["`seeds`"]),
        ([("seeds", [0, 0])], ["`seeds`", "0 twice"]),
        ([("seeds", ["a"])], ["`seeds`", "'a'"]),
        ([("seeds", [True])], ["`seeds`", "True"]),
        ([("seeds", [-1])], ["`seeds`", "-1"]),
        ([("name", 3)], ["`name` is 3"]),
        ([("cache", {"veiws": 2})], ["`cache.veiws`", "views"]),
        ([("cache", {"views": 0})], ["--views is 0"]),
        ([("cache", {}), ("options/views", 2)], ["`options.views`", "cache.views"]),
        ([("cache", {"augment_seed": 1}), ("options/augment_seed", 2)], ["`cache.augment_seed`", "options"]),
        ([("cache", {}), ("methods/KD/augment", "none")], ["`methods.KD.augment`", "`options`"]),
        ([("cache", {}), ("methods/KD/views", 3)], ["`methods.KD.views`", "`cache`"]),
        ([("tuning/trials", {})], ["`tuning.trials` is empty"]),
        ([("tuning/trials/CE", [{"lr": 1}])], ["`tuning.trials`", "CE 1", "KD 2"]),
        ([("tuning/trials/DKD", [{}, {}])], ["`tuning.trials.DKD`", "KD"]),
        ([("tuning/trials/KD", [{"loss": {"alhpa": 1}}, {}])], ["`tuning.trials.KD[0]`", "alhpa"]),
        ([("tuning/trials/KD", [{"test": "each"}, {}])], ["`tuning.trials.KD[0].test`"]),
        ([("tuning/options/test", "each")], ["`tuning.options.test`"]),
        ([("tuning/options/epochs", -3)], ["--epochs is -3"]),
        ([("tuning/pair", {"teacher": "big", "student": "vgg8"})], ["`tuning.pair`", "student: resnet14"]),
        ([("tuning/seeds", [])], ["`tuning.seeds`"]),
        ([("tuning/sedes", [1])], ["`tuning.sedes`", "seeds"]),
        ([("options/validation", 0)], ["`tuning.trials.KD[0]`", "validation part", "`tuning.options`"]),
        ([("tuning/options/validation", 0)], ["`tuning.trials.KD[0]`", "validation part"]),
        ([("tuning/trials/KD", [{}, {"validation": 0}])], ["`tuning.trials.KD[1]`", "validation part"]),
        ([("methods/mine/validation", 0)], ["`tuning.trials.mine[0]`", "validation part"]),
        (
            [
                ("students",),
                ("pairs", [{"teacher": "big", "student": "a", "methods": {"KD": {"validation": 0}}}]),
            ],
            ["`tuning.trials.KD[0]`", "validation part"],
        ),
        (
            [("tuning/options/epochs", 60), ("tuning/trials/KD", [{}, {"warmup_epochs": 10}])],
            ["`tuning.trials.KD[1]`", "in the cells of big and resnet8", "--warmup_epochs is 10"],
        ),
        (
            [
                ("students",),
                (
                    "pairs",
                    [
                        {"teacher": "big", "student": "a", "options": {"epochs": 60}},
                        {"teacher": "big", "student": "b"},
                    ],
                ),
                ("tuning/options/epochs", 60),
                ("tuning/trials/KD", [{}, {"warmup_epochs": 10}]),
            ],
            ["`tuning.trials.KD[1]`", "in the cells of big and b", "--warmup_epochs is 10"],
        ),
        (
            [
                ("students",),
                (
                    "pairs",
                    [
                        {"teacher": "big", "student": "a"},
                        {"teacher": "big", "student": "b", "methods": {"KD": {"loss": {"name": "CE"}}}},
                    ],
                ),
            ],
            ["`tuning.trials.KD[0]`", "CE under `loss` has no option 'alpha'"],
        ),
    ],
)
def test_what_cannot_be_used_is_named_with_its_place(tmp_path, changes, words):
    file = write_spec(tmp_path, changed(*changes))
    with pytest.raises(InputError) as caught:
        read_spec(file)
    said = str(caught.value)
    assert said.startswith(f"{file}: ")
    for word in words:
        assert word in said


@pytest.mark.parametrize("file", sorted(SPECS.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_grids_that_come_with_the_source_can_be_read(file):
    written = yaml.safe_load(file.read_text())
    pairs = len(written.get("pairs", [])) or len(written["teachers"]) * len(written["students"])
    plan = expand(read_spec(file), "runs/grid", {})
    assert len(plan.cells()) == pairs * len(written["methods"]) * len(written["seeds"])
    tuning = written.get("tuning", {"trials": {}})
    assert len(plan.of("trial")) == sum(map(len, tuning["trials"].values())) * len(tuning.get("seeds", []))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("methods: {KD: {}, KD: {}}", ["'KD' twice"]),
        ("methods: {KD: {}, 'KD': {}}", ["'KD' twice"]),
        ("a: &a {x: 1}\nb: {<<: *a, <<: *a}", ["'<<' twice"]),
        ("a: {[x]: 1}", ["YAML", "key"]),
        ("options: {epochs: 3", ["YAML"]),
        ("- a\n- b", ["mapping"]),
    ],
)
def test_a_file_that_is_no_grid(tmp_path, text, words):
    with pytest.raises(InputError) as caught:
        read_spec(write_spec(tmp_path, text))
    assert "grid.yaml" in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"absent\.yaml cannot be read"):
        read_spec(tmp_path / "absent.yaml")

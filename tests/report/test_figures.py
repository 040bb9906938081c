import json

import pytest

from cmkd.report.distributions import distribution
from cmkd.report.figures import Quantity, over_epochs
from cmkd.report.records import in_common, pooled, read_groups
from cmkd.report.sections import sections
from tests.report.synthetic import write_run

VALIDATED = Quantity(("validation", "accuracy"), ".2%")


def rewrite_rows(run, change):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        change(row)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def panels(groups):
    return {panel.title: panel for section in sections(read_groups(groups)) for panel in section.panels}


def test_a_curve_is_the_mean_over_the_seeds_with_a_band_around_it(tmp_path):
    runs = []
    for seed, factor in enumerate((0.1, 0.12, 0.14)):
        runs.append(write_run(tmp_path / str(seed), "KD", seed=seed, epochs=3))
        rewrite_rows(runs[-1], lambda row, f=factor: row["validation"].update(accuracy=f * row["epoch"]))
    records = read_groups({"KD": runs})
    panel = over_epochs("Accuracy", records, [VALIDATED], absent="")
    band, line = panel.figure.data
    assert list(line.x) == [1, 2, 3]
    assert list(line.y) == pytest.approx([0.12, 0.24, 0.36])
    assert list(band.y) == pytest.approx([0.14, 0.28, 0.42, 0.30, 0.20, 0.10])
    assert panel.words == "Last epoch: KD 36.00%."


def test_a_method_keeps_its_colour_and_marker_where_another_is_missing(compared):
    drawn = panels(compared)

    def looks(title):
        lines = [trace for trace in drawn[title].figure.data if trace.mode == "lines+markers"]
        return {trace.name: (trace.line.color, trace.marker.symbol) for trace in lines}

    everywhere = looks("Accuracy")
    assert len(set(everywhere.values())) == 3
    likeness = looks("Rank correlation (Spearman’s ρ)")
    assert set(likeness) == {"KD", "CMKD"}
    assert all(everywhere[name] == look for name, look in likeness.items())


def test_the_teachers_accuracy_is_a_line_of_its_own(compared):
    (line,) = [
        trace for trace in panels(compared)["Accuracy"].figure.data if trace.name == "Teacher (resnet20)"
    ]
    assert set(line.y) == {0.9213}
    assert list(line.x) == [1, 5]


def test_teachers_of_one_network_keep_a_line_each(compared, tmp_path):
    other = write_run(tmp_path / "kd", "KD")
    card = json.loads((other / "teacher.json").read_text())
    (other / "teacher.json").write_text(json.dumps({**card, "sha256": "cdef" * 16, "accuracy": 0.93}))
    panel = panels({**compared, "KD (other)": [other]})["Accuracy"]
    lines = {trace.name: trace.y[0] for trace in panel.figure.data if "Teacher" in (trace.name or "")}
    assert lines == {"Teacher (resnet20 ababab)": 0.9213, "Teacher (resnet20 cdefcd)": 0.93}


def test_training_accuracy_is_dashed_and_thinner(compared):
    traces = {trace.name: trace for trace in panels(compared)["Accuracy"].figure.data}
    assert traces["KD, training"].line.dash == "dash"
    assert traces["KD, training"].line.width < traces["KD"].line.width


def test_a_learning_rate_that_all_share_is_drawn_once(compared):
    (line,) = panels(compared)["Learning rate, the same for all methods"].figure.data
    assert list(line.y)[-1] == pytest.approx(0.0)


def test_a_loss_below_zero_is_not_put_on_a_logarithmic_axis(tmp_path):
    run = write_run(tmp_path / "run", "KD")
    title = "Distillation loss, weighted"
    assert panels({"KD": [run]})[title].figure.layout.yaxis.type == "log"
    rewrite_rows(run, lambda row: row["train"].update(distillation=-1.0))
    assert panels({"KD": [run]})[title].figure.layout.yaxis.type != "log"


def test_histograms_are_shares_with_mean_and_spread(tmp_path):
    run = write_run(tmp_path / "run", epochs=2)
    first, last = [0] * 20, [0] * 20
    first[0] = 10  # everything at 0.025
    last[4] = last[15] = 30  # half at 0.225, half at 0.775: mean 0.5, standard deviation 0.275

    def rewrite(row):
        row["histograms"].update(weight=first if row["epoch"] == 1 else last)
        row["train"].update(weight=0.04 if row["epoch"] == 1 else 0.5)

    rewrite_rows(run, rewrite)
    panel = distribution("w", "CMKD", read_groups({"CMKD": [run]}), "weight", absent="")
    bars, outline = panel.figure.data
    assert sum(bars.y) == pytest.approx(1)
    assert (bars.y[4], bars.y[15], outline.y[0]) == (0.5, 0.5, 1.0)
    assert panel.words == (
        "Epoch 1: mean 0.040, standard deviation 0.000; Epoch 2: mean 0.500, standard deviation 0.275."
    )


def test_an_even_weight_is_explained_and_an_even_difficulty_is_not(compared):
    drawn = panels(compared)
    assert "Even by construction" in drawn["Weight w"].words
    assert "Even by construction" not in drawn["Difficulty, as measured"].words


def test_histograms_of_several_seeds_are_added_up(tmp_path):
    runs = [write_run(tmp_path / str(seed), seed=seed, epochs=1) for seed in range(2)]
    for run, place in zip(runs, (0, 19), strict=True):
        counts = [5 if position == place else 0 for position in range(20)]
        rewrite_rows(run, lambda row, counts=counts: row["histograms"].update(weight=counts))
    (bars,) = distribution("w", "CMKD", read_groups({"CMKD": runs}), "weight", absent="").figure.data
    assert (bars.y[0], bars.y[19]) == (0.5, 0.5)


def test_of_many_methods_the_first_six_have_their_weights_drawn(tmp_path):
    groups = {f"CMKD {each}": [write_run(tmp_path / str(each), epochs=1)] for each in range(7)}
    section = next(each for each in sections(read_groups(groups)) if each.title == "Difficulty weight")
    assert len(section.panels) == 12
    assert "The first 6 of 7 methods." in section.caption


def test_what_is_missing_says_so(tmp_path):
    alone = {"CE": [write_run(tmp_path / "ce", "CE", teacher=False, validation=False)]}
    drawn = panels(alone)
    assert drawn["Accuracy"].figure is not None
    for title, said in {
        "Rank correlation (Spearman’s ρ)": "No run had a teacher",
        "Distillation loss, weighted": "No run had a teacher",
        "Terms of CMKD, unweighted": "No run was trained with CMKD",
        "Weight w": "No run was trained with CMKD",
    }.items():
        assert drawn[title].figure is None
        assert said in drawn[title].words
    taught = {"KD": [write_run(tmp_path / "kd", "KD", validation=False)]}
    assert "No run held out a validation part" in panels(taught)["Rank correlation (Spearman’s ρ)"].words


def test_one_epoch_is_told_not_drawn(tmp_path):
    one = panels({"KD": [write_run(tmp_path / "kd", "KD", accuracy=0.8125, epochs=1)]})["Accuracy"]
    assert one.figure is None
    assert one.words.startswith("One epoch only")
    assert "KD 81.25%" in one.words


def test_a_run_before_its_first_epoch_is_told(tmp_path):
    run = write_run(tmp_path / "kd", "KD", finished=False)
    (run / "metrics.jsonl").unlink()
    assert panels({"KD": [run]})["Accuracy"].words == "No epoch has finished yet."


def test_pooling_keeps_the_epochs_that_only_some_runs_reached(tmp_path):
    runs = [write_run(tmp_path / str(epochs), "KD", epochs=epochs) for epochs in (1, 2)]
    curve = pooled(read_groups({"KD": runs})["KD"], "seconds")
    assert {epoch: len(values) for epoch, values in curve.items()} == {1: 2, 2: 1}


def test_differences_between_methods_are_named(compared):
    records = read_groups(compared)
    assert in_common(records, lambda run: str(run.config["batch_size"])) == "128"
    assert in_common(records, lambda run: run.config["verb"]) == "train (CE); distill (KD, CMKD)"
    assert in_common(records, lambda run: str(run.config["seed"])) == "0 (CE, KD); 0, 1, 2 (CMKD)"

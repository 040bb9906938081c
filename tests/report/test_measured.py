"""The numbers in the figures that need details, each against a computation of its own."""

import json
import math

import numpy as np
import pytest
import torch
import yaml
from scipy import stats
from sklearn.metrics import confusion_matrix

from cmkd.report.measured import find_sources, measured_sections
from cmkd.report.measured.example import choose
from cmkd.report.measured.matrices import in_blocks, mean_logits
from cmkd.report.records import read_groups
from tests.report.conftest import CLASSES, IMAGES
from tests.report.details import shade_of, write_details
from tests.report.synthetic import write_run


def softmax(logits):
    grown = np.exp(logits - logits.max(-1, keepdims=True))
    return grown / grown.sum(-1, keepdims=True)


def drawn(groups, problems=None):
    records = read_groups(groups)
    return {section.title: section for section in measured_sections(find_sources(records, problems or {}))}


@pytest.fixture(scope="module")
def figures(measured):
    return drawn(measured)


def panels(section):
    return {panel.title: panel for panel in section.panels}


def traces(panel):
    return {trace.name: trace for trace in panel.figure.data}


def test_mean_logits_are_those_of_a_loop(known):
    z = stats.zscore(known["teacher"].astype(float), axis=1)
    expected = [z[known["targets"] == label].mean(0) for label in range(CLASSES)]
    found = mean_logits(torch.from_numpy(known["teacher"]), torch.from_numpy(known["targets"]))
    assert found.numpy() == pytest.approx(np.array(expected), abs=1e-5)


def test_the_matrices_on_the_page_and_their_difference(known, figures):
    z = {name: stats.zscore(known[name].astype(float), axis=1) for name in ("teacher", "KD", "CMKD")}
    means = {
        name: np.array([each[known["targets"] == label].mean(0) for label in range(CLASSES)])
        for name, each in z.items()
    }
    shown = panels(figures["Mean logits, class by class"])
    apart = panels(figures["Mean logits: student less teacher"])
    beside = ~np.eye(CLASSES, dtype=bool)
    assert list(shown) == ["Teacher (resnet20)", "KD", "CMKD"]
    for name in ("KD", "CMKD"):
        (heat,) = shown[name].figure.data
        assert np.array(heat.z) == pytest.approx(means[name], abs=0.0051)
        difference = means[name] - means["teacher"]
        assert np.array(apart[name].figure.data[0].z) == pytest.approx(difference, abs=0.0051)
        assert f"{np.abs(difference[beside]).mean():.3f}" in apart[name].words
        r = np.corrcoef(means[name][beside], means["teacher"][beside])[0, 1]
        assert f"r = {r:.3f}" in shown[name].words


def test_many_classes_are_averaged_in_blocks_and_empty_ones_left_out():
    matrix = torch.arange(25.0).view(5, 5)
    matrix[4] = float("nan")
    blocks, size = in_blocks(matrix, 2)
    assert size == 3
    # rows 0 to 2 and 3 (4 is unknown), columns 0 to 2 and 3 to 4
    assert blocks.tolist() == [[6.0, 8.5], [16.0, 18.5]]
    assert in_blocks(matrix, 5)[1] == 1


def test_the_example_is_the_one_that_a_search_finds(known, figures):
    def order(row):
        return sorted(range(CLASSES), key=lambda each: -row[each])[:5]

    best, kept = None, {"KD": 0, "CMKD": 0}
    alone = {"KD": 0, "CMKD": 0}
    for image in range(IMAGES):
        keeps = {name: order(known[name][image]) == order(known["teacher"][image]) for name in kept}
        for name, other in (("KD", "CMKD"), ("CMKD", "KD")):
            kept[name] += keeps[name]
            alone[name] += keeps[name] and not keeps[other]
        if keeps["CMKD"] and not keeps["KD"]:
            rho = {n: stats.spearmanr(known[n][image], known["teacher"][image])[0] for n in kept}
            if best is None or rho["CMKD"] - rho["KD"] > best[0] + 1e-9:
                best = (rho["CMKD"] - rho["KD"], image, rho)
    tensors = {name: torch.from_numpy(known[name]) for name in ("KD", "CMKD", "teacher")}
    found = choose(tensors["KD"], tensors["CMKD"], tensors["teacher"])
    assert (found.position, found.highest) == (best[1], 5)
    assert found.kept == (kept["CMKD"], kept["KD"])
    assert found.alone == (alone["CMKD"], alone["KD"])

    section = figures["An example: the order of the classes"]
    logits, image = section.panels
    assert shade_of(image.pictures[0]) == best[1]
    assert f"not ({alone['CMKD']}; the other way round it is {alone['KD']})" in section.caption
    for name in ("KD", "CMKD"):
        r = stats.pearsonr(known[name][best[1]], known["teacher"][best[1]])[0]
        assert f"(r = {r:.3f}, ρ = {best[2][name]:.3f} over all classes)" in logits.words
        z = stats.zscore(known[name][best[1]].astype(float))
        expected = [
            z[each] for each in sorted(range(CLASSES), key=lambda each: -known["teacher"][best[1]][each])
        ]
        assert list(traces(logits)[name].y) == pytest.approx(expected, abs=1e-3)


def test_without_such_an_image_there_is_no_example():
    teacher = torch.randn(10, 5, generator=torch.Generator().manual_seed(0))
    assert choose(teacher, teacher, teacher) is None


def test_difficulty_orders_images_by_the_teachers_entropy(known, figures):
    p = softmax(stats.zscore(known["teacher"].astype(float), axis=1))
    hard = -(p * np.log(p)).sum(1) / math.log(CLASSES)
    order = np.argsort(hard)
    section = panels(figures["Difficulty of the test images"])
    assert [shade_of(each) for each in section["Easiest images"].pictures] == order[:8].tolist()
    assert [shade_of(each) for each in section["Hardest images"].pictures] == order[::-1][:8].tolist()
    hardest = section["Hardest images"].pictures[0].note
    assert f"difficulty {hard.max():.3f}, w {(IMAGES - 0.5) / IMAGES:.2f}" in hardest
    shares = traces(section["Accuracy over difficulty"])
    for name in ("KD", "CMKD"):
        correct = known[name].argmax(1) == known["targets"]
        expected = [correct[order[begin : begin + 12]].mean() for begin in range(0, IMAGES, 12)]
        assert list(shares[name].y) == pytest.approx(expected, abs=1e-5)
    bars = traces(section["Distribution, right and wrong answers"])
    correct = known["CMKD"].argmax(1) == known["targets"]
    assert sum(bars["right"].y) == pytest.approx(correct.mean(), abs=1e-3)
    counts, _ = np.histogram(hard[~correct], 20, (hard.min(), hard.max()))
    assert list(bars["wrong"].y) == pytest.approx(counts / IMAGES, abs=1e-4)


def test_reliability_is_that_of_a_loop_over_the_bins(known, figures):
    (panel,) = figures["Calibration"].panels
    for name, label in (("KD", "KD"), ("teacher", "Teacher (resnet20)")):
        p = softmax(known[name].astype(float))
        confidence, correct = p.max(1), p.argmax(1) == known["targets"]
        expected, error = [], 0.0
        for place in range(15):
            inside = (confidence > place / 15) & (confidence <= (place + 1) / 15)
            if inside.any():
                expected.append((confidence[inside].mean(), correct[inside].mean()))
                error += inside.mean() * abs(expected[-1][0] - expected[-1][1])
        line = traces(panel)[label]
        assert list(zip(line.x, line.y, strict=True)) == [pytest.approx(each, abs=1e-4) for each in expected]
        assert f"{label} {error:.3f}" in panel.words


def test_gains_are_those_of_the_confusion_matrices(known, figures):
    (panel,) = figures["Gains and losses by class"].panels
    for name in ("KD", "CMKD"):
        rows = {each: confusion_matrix(known["targets"], known[each].argmax(1)) for each in (name, "teacher")}
        recall = {each: rows[each].diagonal() / rows[each].sum(1) for each in rows}
        line = traces(panel)[name]
        for each, gain in zip(line.y, line.x, strict=True):
            label = int(each.split()[-1])
            assert gain == pytest.approx(100 * (recall[name][label] - recall["teacher"][label]), abs=1e-3)
        assert len(line.x) == CLASSES


def test_mistakes_are_the_students_alone(known, figures):
    sure = softmax(known["teacher"].astype(float))
    for panel, name in zip(
        figures["Mistakes that the teacher does not make"].panels, ("KD", "CMKD"), strict=True
    ):
        wrong = [
            image
            for image in range(IMAGES)
            if known["teacher"][image].argmax() == known["targets"][image] != known[name][image].argmax()
        ]
        wrong.sort(key=lambda image: -sure[image, known["targets"][image]])
        assert panel.title == f"{name}: {len(wrong)} of {IMAGES}"
        assert [shade_of(each) for each in panel.pictures] == wrong[:8]


def test_slices_say_how_much_boundary_and_agreement_there_is(figures):
    shown = panels(figures["Decision boundaries on a plane"])
    assert [each.caption[:2] for each in shown["The three images"].pictures] == ["1:", "2:", "3:"]
    # 8 x 8: 56 pairs across and 56 down; the teacher has 8 across
    assert shown["Teacher (resnet20)"].words == f"Boundary {8 / 112:.1%}."
    # KD: one corner differs, 1 more across and 1 down; CMKD: two corners, 1 more across and 2 down
    assert shown["KD"].words == f"Boundary {10 / 112:.1%}; the teacher’s class on {63 / 64:.1%} of the plane."
    assert (
        shown["CMKD"].words == f"Boundary {11 / 112:.1%}; the teacher’s class on {62 / 64:.1%} of the plane."
    )
    assert shown["KD"].figure.data[0].text[0][0] == "class 5"


def test_embeddings_show_every_image_once(figures):
    panel = panels(figures["Features of the students"])["KD under resnet20"]
    expected = np.random.default_rng(0).normal(size=(20, 2))
    for each in (0, 1):
        points = traces(panel)[f"class {each}"]
        shown = np.array([points.x, points.y]).T
        assert shown == pytest.approx(expected[each::2], abs=0.0051)  # a thousandth of the picture
    assert panel.words == "20 images, 64 features; purity 75.0%."


def test_costs_are_those_of_the_results(figures):
    latency, size = figures["Accuracy against cost"].panels
    found = {name: (trace.x[0], trace.y[0]) for name, trace in traces(latency).items()}
    assert found == {"CE": (1.5, 0.85), "KD": (1.5, 0.80), "CMKD": (1.5, 0.82)}
    assert traces(size)["Teacher (resnet20)"].x[0] == 272_474
    assert traces(size)["Teacher (resnet20)"].y[0] == 0.915


def test_corruptions_are_means_over_the_severities(measured, tmp_path):
    run = write_run(tmp_path / "run", "KD")
    found = {
        "setting": {"part": "test", "images": 500},
        "robustness": {
            "images": 100,
            "severities": [1, 5],
            "strengths": "CIFAR-10-C",
            "clean": {"student": {"value": 0.8}, "teacher": {"value": 0.9}},
            "corruptions": {
                "fog": {"accuracy": {"student": [0.6, 0.2], "teacher": [0.8, 0.6]}},
                "jpeg_compression": {"accuracy": {"student": [0.7, 0.5], "teacher": [0.9, 0.8]}},
            },
            "summary": {"student": {"mean_accuracy": 0.5}, "teacher": {"mean_accuracy": 0.775}},
        },
    }
    (run / "evaluation.json").write_text(json.dumps(found))
    section = drawn({"CE": measured["CE"], "KD": [run]})["Accuracy on corrupted images"]
    (panel,) = section.panels
    student = traces(panel)["KD"]
    assert dict(zip(student.y, student.x, strict=True)) == pytest.approx(
        {"no corruption": 80.0, "fog": 40.0, "jpeg compression": 60.0}
    )
    assert list(traces(panel)["Teacher"].x) == pytest.approx([90.0, 70.0, 85.0])
    assert "100 test images, the same for all. Not measured: CE." in section.caption


def test_strength_puts_runs_under_their_teachers(measured, known, tmp_path):
    other = write_run(tmp_path / "kd", "KD", accuracy=0.7)
    card = json.loads((other / "teacher.json").read_text())
    (other / "teacher.json").write_text(json.dumps({**card, "sha256": "cd" * 32, "network": "resnet56"}))
    result = json.loads((other / "result.json").read_text())
    (other / "result.json").write_text(json.dumps({**result, "teacher": {"accuracy": 0.95}}))
    clean, bent = drawn({**measured, "KD (other)": [other]})["Strength of the teacher"].panels
    assert list(traces(clean)["KD"].x) == [0.915, 0.95]
    assert list(traces(clean)["KD"].y) == [0.8, 0.7]
    assert list(traces(bent)["CMKD"].y) == [0.6]
    assert list(traces(bent)["KD"].y) == [0.5]


def test_strength_takes_transformed_images_of_every_seed_where_they_were_measured(known, tmp_path):
    groups = {}
    for network, sha256, strength, bent in (("a", "aa" * 32, 0.9, 0.5), ("b", "bb" * 32, 0.95, 0.6)):
        for seed in range(3):
            run = write_run(tmp_path / f"{network}{seed}", "KD", seed=seed, accuracy=0.8)
            under(run, network, sha256, strength)
            # The third seed was measured on fewer images, and another severity is not asked for.
            robust = {
                "images": 500 if seed < 2 else 50,
                "severities": [1, 3],
                "corruptions": {
                    "elastic_transform": {"accuracy": {"student": [0.9, bent + seed / 10], "teacher": [1, 1]}}
                },
                "clean": {"student": {"value": 0.8}},
                "strengths": "CIFAR-10-C",
                "summary": {"student": {"mean_accuracy": 0.5}},
            }
            bins = {"count": [500], "confidence": [0.8], "accuracy": [0.8]}
            calibration = {"student": {"ece": 0.0, "reliability": bins}}
            found = {"setting": {"part": "test", "images": 500}, "calibration": calibration}
            found["robustness"] = robust
            (run / "evaluation.json").write_text(json.dumps(found))
            groups.setdefault(network, []).append(run)
    own = {"elastic": {"severity": 3, "clean": {"student": 0.8}, "accuracy": {"student": 0.1}}}
    write_details(groups["a"][0], known["KD"], known["targets"], meta=own)
    section = drawn(groups)["Strength of the teacher"]
    line, dots = section.panels[1].figure.data
    assert list(line.y) == pytest.approx([0.55, 0.65])
    assert list(dots.x) == [0.9, 0.9, 0.95, 0.95]
    assert list(dots.y) == pytest.approx([0.5, 0.6, 0.6, 0.7])
    assert "severity 3, mean over the runs that cmkd evaluate measured on 500 test images" in section.caption


def under(run, network, sha256, accuracy, **options):
    """Put a run under another teacher, whose accuracy on the test set it then measured."""
    for name, changes in (
        ("teacher.json", {"network": network, "sha256": sha256}),
        ("result.json", {"teacher": {"accuracy": accuracy}}),
    ):
        (run / name).write_text(json.dumps(json.loads((run / name).read_text()) | changes))
    config = yaml.safe_load((run / "config.yaml").read_text())
    config |= {"teacher": f"runs/{network}", **options}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


def test_strength_takes_means_over_nothing_but_seeds(tmp_path):
    plain, standardised = {"name": "KD"}, {"name": "KD", "logit_standardization": True}
    groups = {}
    for place, (network, sha256, strength) in enumerate([("a", "aa" * 32, 0.9), ("b", "bb" * 32, 0.95)]):
        for label, seed, accuracy, loss in (
            ("KD", 0, 0.7, plain),
            ("KD", 1, 0.72, plain),
            ("LS", 0, 0.8, standardised),
        ):
            run = write_run(
                tmp_path / f"{label}{seed}{network}", "KD", seed=seed, accuracy=accuracy + place / 10
            )
            under(run, network, sha256, strength, loss=loss)
            groups.setdefault(f"{label} under {network}", []).append(run)
    other = write_run(tmp_path / "other", "KD", accuracy=0.3)
    groups["other"] = [under(other, "a", "aa" * 32, 0.9, loss=plain, student="resnet110")]
    section = drawn(groups)["Strength of the teacher"]
    lines = [trace for trace in section.panels[0].figure.data if "lines" in trace.mode]
    assert {line.name: list(line.y) for line in lines} == {
        "KD (student resnet8, logit_standardization –)": [0.71, 0.81],
        "KD (student resnet8, logit_standardization True)": [0.8, 0.9],
        "KD (student resnet110, logit_standardization –)": [0.3],
    }
    # Nothing was measured of transformed images, so that there is nothing to say of how.
    assert "severity" not in section.caption
    assert section.panels[1].figure is None


def test_teachers_of_one_network_are_told_apart_wherever_they_are_drawn(measured, tmp_path):
    other = under(write_run(tmp_path / "kd", "KD"), "resnet20", "cdef" * 16, 0.95)
    figures = drawn({**measured, "KD (other)": [other]})
    size = panels(figures["Accuracy against cost"])["Size"]
    assert {"Teacher (resnet20 ababab)", "Teacher (resnet20 cdefcd)"} <= set(traces(size))
    assert "under resnet20 cdefcd" in figures["Strength of the teacher"].panels[0].words
    assert "Teacher (resnet20 ababab)" in traces(figures["Calibration"].panels[0])


def test_calibration_on_the_whole_test_set_needs_no_teacher_in_the_details(known, tmp_path):
    run = write_run(tmp_path / "run", "KD")
    write_details(run, known["KD"], known["targets"], missing={"teacher": "not at hand"})
    bins = {"count": [0, 500], "confidence": [0.0, 0.8], "accuracy": [0.0, 0.7]}
    one = {"ece": 0.1, "reliability": bins}
    evaluation = {
        "setting": {"part": "test", "images": 500},
        "calibration": {"student": one, "teacher": {**one, "ece": 0.02}},
    }
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    (panel,) = drawn({"KD": [run]})["Calibration"].panels
    assert list(traces(panel)["Teacher (resnet20)"].y) == [0.7]
    assert panel.words == "Expected calibration error: Teacher (resnet20) 0.020; KD 0.100."


def test_of_several_measured_runs_the_one_is_taken_that_has_what_was_asked_for(known, tmp_path):
    runs = []
    for seed, layout in enumerate(("tsne", "umap", "umap")):
        run = write_run(tmp_path / str(seed), "KD", seed=seed)
        count = IMAGES if seed < 2 else 60
        write_details(run, known["KD"][:count], known["targets"][:count], meta={"layout": layout})
        runs.append(run)
    records = read_groups({"KD": runs})

    def taken(**asked):
        return find_sources(records, {}, **asked).found[0].run.path

    assert taken() == runs[0]
    assert taken(images=IMAGES, layout="umap") == taken(layout="umap") == runs[1]
    assert taken(images=60, layout="umap") == taken(images=60) == runs[2]
    assert taken(images=60, layout="tsne") == runs[0]  # nobody has it


def test_names_of_classes_are_cut_before_they_are_escaped(known, tmp_path):
    run = write_run(tmp_path / "run", "KD")
    answers = np.arange(64, dtype=np.int32).reshape(8, 8) % 3
    corners = [[0.0, 0.0], [10.0, 0.0], [5.0, 5.0]]
    write_details(
        run, known["KD"], known["targets"], teacher=known["teacher"],
        classes=["carpenter's kit", "<b> & others", *"cdef"],
        slice_student=answers, slice_teacher=answers,
        meta={"slice": {"positions": [0, 1, 2], "corners": corners, "x": [-2.0, 12.0], "y": [-1.0, 6.0]}},
    )  # fmt: skip
    heat = panels(drawn({"KD": [run]})["Decision boundaries on a plane"])["KD"].figure.data[0]
    assert {"carpenter&#x27;s", "&lt;b&gt; &amp; other"} <= set(heat.colorbar.ticktext)


def test_what_is_missing_is_said_in_its_place(measured, tmp_path):
    figures = drawn({"CE": measured["CE"]}, {measured["CE"][0]: "its data are gone"})
    needing = [
        title for title in figures if title not in ("Accuracy against cost", "Strength of the teacher")
    ]
    for title in needing:
        for panel in figures[title].panels:
            assert panel.figure is None
            assert "its data are gone" in panel.words or "cmkd evaluate" in panel.words
    assert "at least two teachers" in figures["Strength of the teacher"].panels[0].words
    unfinished = drawn({"KD": [write_run(tmp_path / "run", "KD", finished=False)]})
    assert "has not finished" in unfinished["Calibration"].panels[0].words


def test_a_run_without_a_teacher_has_what_needs_none(known, tmp_path):
    run = write_run(tmp_path / "run", "CE", teacher=False)
    write_details(run, known["KD"], known["targets"], missing={"teacher": "trained on labels alone"})
    figures = drawn({"CE": [run]})
    assert figures["Calibration"].panels[0].figure is not None
    assert "trained on labels alone" in figures["Mean logits, class by class"].panels[0].words
    assert "No teacher was at hand" in figures["Gains and losses by class"].panels[0].words


def test_two_classes_are_not_ranked(tmp_path):
    random = np.random.default_rng(0)
    logits, targets = random.normal(size=(20, 2)), random.integers(0, 2, 20)
    groups = {
        name: [write_details(write_run(tmp_path / name, name), logits, targets, teacher=logits)]
        for name in ("KD", "CMKD")
    }
    figures = drawn(groups)
    assert "With two classes" in figures["An example: the order of the classes"].panels[0].words
    assert figures["Mean logits, class by class"].panels[0].figure is not None

"""The card is read back with the hub's own parser."""

import json
import shlex

import pytest
import yaml

from cmkd.cli import main
from cmkd.cli_options import parse
from cmkd.errors import InputError
from cmkd.hub import model_card, write_model_card
from cmkd.hub.cards import MARK
from cmkd.hub.command import command_of
from cmkd.training import DistillConfig, TrainConfig

hub = pytest.importorskip("huggingface_hub")


def metrics(card):
    return {each.metric_type: each.metric_value for each in card.data.eval_results}


def test_the_hub_reads_what_result_json_says(run):
    card = hub.ModelCard.load(write_model_card(run, license="apache-2.0"))
    result = json.loads((run / "result.json").read_text())["test"]
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "cmkd")
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.model_name == "student"
    assert metrics(card) == {
        "accuracy": result["accuracy"],
        "top_5_accuracy": result["top5"],
        "nll": result["nll"],
        "ece": result["ece"],
        "teacher_agreement": result["agreement"],
        "spearmanr": result["rank_correlation"],
        "pearsonr": result["value_correlation"],
        "kl_divergence": result["teacher_kl"],
    }
    first = card.data.eval_results[0]
    assert (first.dataset_name, first.dataset_split) == ("fashion-mnist-12k", "test")
    assert first.dataset_args == {"epoch": "last", "seed": 0, "images": 2000}


def test_people_read_where_it_comes_from_and_how_it_is_used(run):
    revision = json.loads((run / "environment.json").read_text(encoding="utf-8"))["revision"]
    text = model_card(run)
    for said in (
        "distilled from `resnet20` (272,474 parameters) by CMKD",
        "On the 2,000 test images",
        "| accuracy | 79.60% | 92.45% |",
        "| agreement with the teacher | 81.75% |  |",
        'cmkd.from_pretrained("student")',
        "cmkd predict student photo.jpg",
        "mean 0.286, 0.286, 0.286",
        "T-shirt/top, Trouser,",
        "--loss CMKD",
        f"| Revision | {revision} |",
        "None has been chosen",
    ):
        assert said in text, said


def test_the_command_gives_the_same_run():
    """Parsed again, it has the options that it was told from."""
    asked = DistillConfig(
        data="cifar100",
        teacher=["runs/a", "resnet20"],
        teacher_weights="random",
        epochs=7,
        validation=0.0,
        nesterov=False,
        milestones=[3, 5],
        schedule="multistep",
        clip_grad=1.5,
        loss={"name": "DKD", "beta": 2.0},
        with_=[{"name": "RKD", "weight": 0.5}],
        out="elsewhere",
        workers=7,
    )
    line = command_of({"verb": "distill", **asked.options()}).replace("\\\n", " ")
    assert "workers" not in line
    _, again = parse(shlex.split(line)[1:])
    for config in (asked, again):  # the command line fills in the defaults of a loss
        config.loss = {name: value for name, value in config.loss.items() if name in ("name", "beta")}
        config.with_ = [
            {name: value for name, value in config.with_[0].items() if name in ("name", "weight")}
        ]
    assert again.identity() == asked.identity()
    assert command_of({"verb": "train", **TrainConfig().options()}) == "cmkd train"


def test_of_paths_only_the_end_is_told(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config |= {"data": "folder:/home/someone/photos/flowers", "teacher": "/home/someone/runs/wide"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    text = model_card(run)
    assert "someone" not in text
    assert "--data folder:…/photos/flowers" in text.replace("'", "")
    assert hub.ModelCard(text).data.eval_results[0].dataset_type == "folder"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("hf:uoft-cs/cifar10", "uoft-cs/cifar10"),
        ("hf:mnist", "mnist"),
        ("hf:user/birds:small", "user/birds"),
        ("hf:/home/someone/photos", None),
        ("hf:~/photos", None),
        ("hf:a/b/c", None),
        ("hf:tables/birds", None),
        ("hf:tables/birds:small", None),
    ],
)
def test_a_data_set_on_the_hub_is_told_from_ones_own(run, tmp_path, monkeypatch, data, name):
    (tmp_path / "tables/birds").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "data": data}))
    text = model_card(run)
    head = hub.ModelCard(text).data
    assert head.datasets == (name and [name])
    assert head.eval_results[0].dataset_type == (name or "hf")
    assert "/home" not in text


def test_what_the_run_did_not_measure(run, change):
    result = json.loads((run / "result.json").read_text())
    del result["test"], result["images"], result["teacher"]
    (run / "result.json").write_text(json.dumps(result))
    card = hub.ModelCard(model_card(run))
    assert "On the validation part, as the test set was not looked at" in card.text
    assert metrics(card)["accuracy"] == result["last_validation"]["accuracy"]
    assert card.data.eval_results[0].dataset_split == "validation"

    del result["last_validation"], result["best_validation"]
    (run / "result.json").write_text(json.dumps(result))
    (run / "teacher.json").unlink()
    card = hub.ModelCard(model_card(run))
    assert card.data.eval_results is None
    assert "Nothing was measured" in card.text
    assert "distilled from logits in a cache" in card.text


def test_what_evaluate_found(run):
    top1 = {"value": 0.7965, "low": 0.77834, "high": 0.81355}
    found = {"setting": {"part": "test", "images": 2000}, "accuracy": {"student": {"top1": top1}}}
    (run / "evaluation.json").write_text(json.dumps(found))
    assert "79.65% in float32 on 2,000 images, with a 95 % confidence interval of 77.83% to" in model_card(
        run
    )
    (run / "evaluation.json").write_text("{}")
    assert "Wilson" not in model_card(run)


def test_figures_are_shown(run):
    (run / "figures").mkdir()
    for name in ("training curves.svg", "training curves.png", "logits.pdf", "ranks.svg"):
        (run / "figures" / name).touch()
    lines = [line for line in model_card(run).splitlines() if line.startswith("![")]
    assert lines == ["![ranks](figures/ranks.svg)", "![training curves](figures/training%20curves.png)"]


def test_a_licence_stays_and_ones_own_card_too(run):
    file = write_model_card(run, license="mit")
    assert hub.ModelCard.load(write_model_card(run)).data.license == "mit"
    own = file.read_text().replace(MARK, "") + "\nMy words.\n"
    file.write_text(own)
    write_model_card(run)
    assert file.read_text() == own
    with pytest.raises(InputError, match=r"write `license: gpl-3\.0` there"):
        write_model_card(run, license="gpl-3.0")


@pytest.mark.parametrize("named", ["[mit, apache-2.0]", "[]", "2.0"])
def test_a_licence_that_is_no_name(run, named):
    file = write_model_card(run, license="mit")
    file.write_text(file.read_text().replace("license: mit", f"license: {named}"))
    with pytest.raises(InputError, match=r"README\.md has .* as its licence; write one name"):
        write_model_card(run)
    assert hub.ModelCard.load(write_model_card(run, license="mit")).data.license == "mit"


def test_many_classes_and_strange_names(run, change):
    names = [f"class {number}: | `odd` ---" for number in range(30)]
    change(run / "model.json", classes=names, num_classes=30)
    text = model_card(run)
    assert "and 10 more, in `model.json`" in text
    assert metrics(hub.ModelCard(text))["accuracy"] == 0.796


def test_a_card_is_written_again_when_more_is_known(run, monkeypatch, capsys):
    monkeypatch.setattr("cmkd.report.report_runs", lambda *_, **__: drawn(run / "figures"))
    (run / "student.safetensors").rename(run.parent / "weights")
    assert main(["report", str(run)]) == 0, capsys.readouterr().err  # it has no card
    assert not (run / "README.md").exists()
    (run.parent / "weights").rename(run / "student.safetensors")
    write_model_card(run, license="mit")
    before = (run / "README.md").read_text()
    (run / "student.safetensors").rename(run.parent / "weights")
    assert main(["report", str(run)]) == 0, capsys.readouterr().err  # which needs no weights
    assert (run / "README.md").read_text() == before
    (run.parent / "weights").rename(run / "student.safetensors")
    assert main(["report", str(run)]) == 0, capsys.readouterr().err
    card = hub.ModelCard.load(run / "README.md")
    assert "![curves](figures/curves.png)" in card.text
    assert card.data.license == "mit"


def drawn(folder):
    folder.mkdir(exist_ok=True)
    (folder / "curves.png").touch()
    return folder.parent / "report.html", folder


def test_by_the_command_line(run, capsys):
    assert main(["card", str(run), "--license", "mit"]) == 0
    assert str(run / "README.md") in capsys.readouterr().out
    assert main(["card", str(run), "--license", "My Licence"]) == 2
    assert "no name of a licence" in capsys.readouterr().err
    (run / "result.json").unlink()
    assert main(["card", str(run)]) == 2
    assert "no finished run" in capsys.readouterr().err

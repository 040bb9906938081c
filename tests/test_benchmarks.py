"""The benchmarks measure what they say, and the documents show what they measured."""

import json
import sys
from pathlib import Path

import pytest
import scipy.special
import scipy.stats
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("ranking", "softness", "written")):
            sys.modules.pop(name)


def test_the_contestants_compute_what_they_are_called():
    from ranking_contestants import contestants

    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(5, 40, generator=generator, dtype=torch.float64) for _ in range(2))
    found = contestants("cpu")
    p, q = (scipy.special.softmax(x.numpy() / 4, 1) for x in (teacher, student))
    kl = 16 * scipy.stats.entropy(p, q, axis=1).mean()
    assert found["kl"].loss(student, teacher).item() == pytest.approx(kl)
    rho = sum(scipy.stats.spearmanr(s, t).statistic for s, t in zip(student, teacher, strict=True)) / 5
    rankings = [key for key, each in found.items() if each.title.startswith("Spearman")]
    assert {"binned-pure", "laplace-pure", "l2-pure"} <= set(rankings)
    for key in rankings:
        loss = found[key].loss(student.float(), teacher.float())
        assert loss.item() == pytest.approx(1 - rho, abs=0.05), key


def test_every_round_has_every_contestant_and_each_comes_first_in_turn():
    from ranking import measure
    from ranking_contestants import Contestant

    order = []

    def named(name):
        def loss(student, teacher):
            order.append(name)
            return student.sum()

        return Contestant(name, loss)

    logits = torch.zeros(1, 2, requires_grad=True)
    times = measure({"a": named("a"), "b": named("b")}, logits, logits.detach(), budget=0, rounds=(4, 9))
    assert [len(each) for each in times.values()] == [4, 4]
    turns = [name for index, name in enumerate(order) if index == 0 or order[index - 1] != name]
    assert turns[-5:] in (list("ababa"), list("babab"))  # ab, ba, ab, ba: neighbours of one name merge


def test_a_ratio_is_the_median_of_the_rounds():
    from ranking_tables import ratio, tenth

    size = {"seconds": {"a": [1.0, 2.0, 30.0], "b": [1.0, 1.0, 1.0]}}
    assert ratio(size, "a", "b") == 2.0
    assert ratio(size, "torchsort", "b") is None
    assert tenth(list(range(101))) == 10


def test_the_rule_takes_the_least_bias_among_the_fast():
    from softness import pick

    def record(softness, spearman, bias):
        trained = {f"{name}_{step}": spearman for name in ("adam", "sgd") for step in (25, 50, 100)}
        shape = {**trained, "bias_same": bias, "bias_spaced": 0.0}
        return {"softness": softness, "shapes": {"normal": shape, "heavy": shape}}

    slow, good, biased = record(0.1, 0.97, 0.01), record(0.2, 0.989, 0.05), record(0.4, 0.99, 0.2)
    assert pick([slow, good, biased]) == 0.2
    assert pick([slow, biased]) == 0.4


def test_the_documents_show_the_committed_results():
    from ranking_document import DOCUMENTS, filled

    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        assert filled(text) == text
        assert f"<!-- {'speed' if document.name == 'README.md' else 'ratios'} -->" in text


def test_the_tables_of_the_results_come_from_their_numbers():
    from ranking_tables import readme

    folder = ROOT / "results" / "ranking"
    measured = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    if any(each["kind"] == "ranking" for each in measured):
        assert readme(folder) == (folder / "README.md").read_text(encoding="utf-8")


def test_the_example_of_the_document_runs_and_is_one_loss_in_two_forms():
    text = (ROOT / "docs" / "ranking.md").read_text(encoding="utf-8")
    names = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    assert names["same"].item() == pytest.approx(names["loss"].item(), abs=1e-5)
    assert names["student"].grad.isfinite().all()

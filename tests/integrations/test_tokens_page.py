"""The page on tokens and the example of text run, and what they say is so."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from cmkd import CMKDLoss, DenseLoss, KDLoss, TokenLoss
from cmkd.losses import TopLogits, top_logits

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/tokens.md").read_text(encoding="utf-8")


def blocks(section):
    """Return the Python under one heading of the page."""
    (found,) = re.findall(rf"\n## {section}\n(.*?)(?=\n## |\Z)", PAGE, flags=re.DOTALL)
    return re.findall(r"```python\n(.*?)```", found, flags=re.DOTALL)


def language_model(width, seed, words=80):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Embedding(words, width), nn.Linear(width, words))


def test_the_objective_of_a_language_model_learns_and_the_top_classes_do_as_well():
    (code,) = blocks("Language models")
    (top,) = blocks("Teachers that give their top classes alone")
    student, teacher = language_model(8, seed=1), language_model(32, seed=2)
    ids = torch.randint(1, 80, (4, 9), generator=torch.Generator().manual_seed(0))
    seen = (torch.arange(9) < torch.tensor([[9], [4], [7], [2]])).long()
    names = {}
    exec(code, names)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        loss = names["objective"](student, teacher, ids, seen)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]

    labels = ids.masked_fill(seen == 0, -100)
    names |= {"teacher_logits": teacher(ids), "logits": student(ids), "labels": labels}
    exec(top, names)
    kept = labels != -100
    given = top_logits(teacher(ids)[kept], 64)
    alone = TokenLoss(KDLoss(temperature=1.0))(student(ids)[kept], TopLogits(*given))
    assert names["loss"].item() == pytest.approx(alone.item(), rel=1e-5)


def test_the_lines_on_segmentation():
    (code,) = blocks("Segmentation")
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 5, 4, 4, generator=generator) for _ in "st")
    target = torch.randint(0, 5, (2, 4, 4), generator=generator)
    target[0, 0] = 255
    names = {"student_logits": student, "teacher_logits": teacher, "target": target}
    exec(code, names)
    assert isinstance(names["distill"], DenseLoss)
    kept = target != 255
    expected = CMKDLoss()(student.movedim(1, -1)[kept], teacher.movedim(1, -1)[kept])
    assert names["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_table_of_memory_is_the_committed_one(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    try:
        from tokens_memory import readme, table
    finally:
        sys.modules.pop("tokens_memory", None)
    above = {}
    for folder in ("results/tokens", "results/tokens/100"):
        record = json.loads((ROOT / folder / "memory.json").read_text(encoding="utf-8"))
        assert readme(record, folder) == (ROOT / folder / "README.md").read_text(encoding="utf-8")
        for key, each in record["measured"].items():
            above.setdefault(key, []).append((each["peak"] - each["logits"]) / 2**20)
        if folder == "results/tokens":
            assert table(record) in PAGE
    said = re.search(r"(\d+) MiB for KD, (\d+) for DKD, (\d+) for\s+CMKD", PAGE)
    for method, figure in zip(("KD", "DKD", "CMKD"), said.groups(), strict=True):
        assert above[f"{method}, chunks"] == pytest.approx([int(figure)] * 2, abs=1)


def test_chunks_need_less_memory_than_the_whole(monkeypatch):
    """A small case of the benchmark: KD on 64 tokens of 30,000 words, in chunks of 13."""
    import argparse

    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from tokens_memory import measure_apart

    sys.modules.pop("tokens_memory", None)
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak comes from Linux's /proc")
    options = argparse.Namespace(texts=8, length=50, classes=30_000, threads=1)
    whole, chunks = (measure_apart("KD", way, options) for way in ("at once", "chunks"))
    # At once: six temporaries of 48 MB. In chunks: the gradient and those of 70 tokens of 400.
    assert whole["peak"] > 4 * whole["logits"]
    assert chunks["peak"] < 0.6 * whole["peak"]


def test_the_page_shows_what_the_example_of_text_said():
    assert (ROOT / "results/text/output.txt").read_text(encoding="utf-8") in PAGE


def test_the_example_of_text_learns(capsys):
    example = ROOT / "examples/text_classifier.py"
    result = runpy.run_path(str(example))["main"](seeds=1, epochs=6)
    assert list(result) == ["teacher", "labels alone", "KD", "CMKD"]
    right = {name: each[0, 0].item() for name, each in result.items()}
    assert right["teacher"] > 50  # by chance 8
    assert right["CMKD"] > 20
    # Whoever learns from the teacher has more of its order of the classes than whoever does not.
    assert result["CMKD"][0, 1] > result["labels alone"][0, 1]
    assert "rank correlation with the teacher" in capsys.readouterr().out

"""The tutorial's commands run to the letter, on fewer images, and print what the page shows."""

import re
import shlex
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs/tutorial.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


def shape(line):
    """Return a line of output without its numbers, and with one space for many."""
    line = re.sub(r"─+", "─", re.sub(r"\d[\d.,]*(e-\d+)?", "#", line))
    return re.sub(r"[ -]{2,}", " ", line).strip()


def test_the_tutorial(tmp_path, monkeypatch, capsys):
    """In a folder as empty as the reader's."""
    pytest.importorskip("onnxruntime")
    from cmkd.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    page = PAGE.read_text(encoding="utf-8")
    assert "2000), " in page
    verbs = []
    for language, block in FENCE.findall(page):
        if language == "python":
            fewer = block.replace("2000), ", "60), ").replace("500)]", "30)]")
            (tmp_path / "make_photos.py").write_text(fewer)
        elif block == "python make_photos.py\n":
            exec((tmp_path / "make_photos.py").read_text(), {})
        elif block.startswith("$ "):
            for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, _, shown = part.partition("\n")
                program, *arguments = shlex.split(command)
                status = main(arguments)
                said = capsys.readouterr()
                assert (program, status) == ("cmkd", 0), said.err
                printed = {shape(line) for line in (said.out + said.err).splitlines()}
                expected = {shape(line) for line in shown.splitlines()} - {"", "...", "─"}
                if arguments[0] != "predict":  # which classes it sees depends on the training
                    assert expected <= printed
                verbs.append(arguments[0])
    assert verbs == ["train", "distill", "distill", "report", "evaluate", "export", "predict"]
    assert len(list(Path("photos").rglob("*.png"))) == 90
    assert Path("runs/cmkd/export/student.onnx").is_file()
    assert Path("report.html").is_file()

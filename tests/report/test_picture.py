import html
import xml.etree.ElementTree as ET

import pytest

from cmkd.errors import InputError
from cmkd.report import save_picture
from tests.report.synthetic import write_run


def size_of_png(file):
    content = file.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def comments(svg):
    """Matplotlib names every text that it draws as paths in a comment."""
    parser = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True))
    return [
        html.unescape(node.text.strip()) for node in ET.fromstring(svg.read_bytes(), parser).iter(ET.Comment)
    ]


@pytest.mark.parametrize("name", ["picture", "picture.png", "picture.svg"])
def test_png_and_svg_are_written_whatever_the_suffix(compared, tmp_path, name):
    png, svg = save_picture(tmp_path / name, {"KD": compared["KD"]}, title="x")
    assert (png, svg) == (tmp_path / "picture.png", tmp_path / "picture.svg")
    assert size_of_png(png) == (2000, 760)
    assert png.exists()
    assert svg.exists()


def test_the_picture_names_methods_values_and_setting(compared, tmp_path):
    _, svg = save_picture(tmp_path / "picture", compared, title="Costs $5 & <more>")
    said = comments(svg)
    assert {
        "Costs $5 & <more>",
        "CE",
        "KD",
        "CMKD",
        "80.00",
        "82.00",
        "85.33 ± 1.53",
        "teacher 91.50",
    } <= set(said)
    # after the last epoch: 0.95 - 0.3 exp(-4) = 0.9445 for CMKD, 0.1 less for KD
    assert {"KD 0.845", "CMKD 0.945"} <= set(said)
    assert any("fashion-mnist-12k, 5 epochs, 1 to 3 seeds per method" in text for text in said)


def test_the_same_runs_give_the_same_bytes(compared, tmp_path):
    groups = {"KD": compared["KD"]}
    first, second = (save_picture(tmp_path / name / "picture", groups, title="x") for name in "ab")
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_what_was_not_measured_is_said(tmp_path):
    run = write_run(tmp_path / "run", "CE", teacher=False, finished=False)
    said = comments(save_picture(tmp_path / "picture", {"CE": [run]}, title="x")[1])
    assert "not finished" in said
    assert any(text.startswith("not measured: no run had a teacher") for text in said)


def test_a_folder_that_is_no_run_is_named_and_nothing_written(tmp_path):
    with pytest.raises(InputError, match="nowhere is no run folder"):
        save_picture(tmp_path / "picture", {"KD": [tmp_path / "nowhere"]}, title="x")
    assert not list(tmp_path.iterdir())

"""Overview, LaTeX, figures and the page of a grid with several pairs."""

import html
import json
import re
import shutil
import subprocess

import pytest
from PIL import Image

import cmkd.data
from cmkd.bench.reporting import report_grid
from cmkd.bench.reporting.comparing import compare
from cmkd.bench.reporting.drawings import drawings
from cmkd.bench.reporting.heading import customary
from cmkd.bench.reporting.latex import escaped
from cmkd.bench.reporting.results import read_grid
from cmkd.bench.reporting.wording import duration, overview
from tests.bench.grids import cell_name, edit_config, write_grid
from tests.browser import needs_browser, on_narrow_and_wide
from tests.report.test_page import Page

WEAK, STRONG, OTHER = ("resnet20", "resnet14"), ("resnet56", "resnet14"), ("resnet56", "resnet8")
ODD = "a_b & 5 % <i>"


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Two teachers of one student, three methods; a pair of which one cell failed. Read only."""
    root = tmp_path_factory.mktemp("grids") / "grid"
    accuracies = {
        WEAK: {"KD": {0: 0.60, 1: 0.62}, "CMKD": {0: 0.64, 1: 0.66}, ODD: {0: 0.61, 1: 0.60}},
        STRONG: {"KD": {0: 0.61, 1: 0.63}, "CMKD": {0: 0.68, 1: 0.69}, ODD: {0: 0.61, 1: 0.60}},
        OTHER: {"KD": {0: 0.50, 1: None}, "CMKD": {0: 0.51, 1: 0.53}, ODD: {0: None, 1: None}},
    }
    write_grid(root, accuracies, failures={cell_name(*OTHER, "KD", 1): {"error": "too & small"}})
    for teacher, accuracy in {"resnet20": 0.68, "resnet56": 0.72}.items():
        for file in root.glob(f"cells/{teacher}--*/*/seed*/result.json"):
            result = json.loads(file.read_text())
            file.write_text(json.dumps({**result, "teacher": {"accuracy": accuracy}}))
    for seed in (0, 1):
        edit_config(root / cell_name(*WEAK, "CMKD", seed), epochs=5)
    report_grid(root)
    return root


@pytest.fixture(scope="module")
def pairs(grid):
    return compare(read_grid(grid))


@pytest.fixture(scope="module")
def panels(grid, pairs):
    drawn = drawings(pairs, read_grid(grid).methods)
    return {(section.title, panel.title): panel for section in drawn for panel in section.panels}


def test_the_overview_has_a_row_per_method_and_a_column_per_pair(pairs):
    teacher, kd, cmkd, odd = overview(pairs)
    assert teacher["resnet20 → resnet14"] == "68.00"
    assert list(kd.values()) == ["KD", "61.00 ± 1.41", "62.00 ± 1.41", "50.00 (n = 1)"]
    assert cmkd["resnet20 → resnet14"] == "65.00 ± 1.41 †"
    assert odd["resnet56 → resnet8"] == "–"


def test_every_seed_is_a_dot_and_the_mean_a_bar(panels):
    traces = panels["Test accuracy", "resnet20 → resnet14"].figure.data
    dots, mean = [trace for trace in traces if trace.name == "CMKD"]
    assert list(dots.x) == pytest.approx([64, 66])
    assert list(dots.text) == ["seed 0", "seed 1"]
    assert list(mean.x) == pytest.approx([65])


def test_differences_have_their_interval_and_the_baseline_has_none(panels):
    traces = panels["Difference to KD", "resnet56 → resnet14"].figure.data
    dots, mean = [trace for trace in traces if trace.name == "CMKD"]
    # 7 and 6: mean 6.5, deviation sqrt(0.5); t for 1 degree of freedom is tan(0.95 pi / 2) = 12.7062
    assert list(dots.x) == pytest.approx([7, 6])
    assert (mean.x[0], mean.error_x.array[0]) == (pytest.approx(6.5), pytest.approx(12.7062 * 0.5, rel=1e-5))
    assert not [trace for trace in traces if trace.name == "KD"]
    (alone,) = [
        trace for trace in panels["Difference to KD", "resnet56 → resnet8"].figure.data if trace.text is None
    ]
    assert alone.error_x.array is None


def test_a_method_looks_the_same_in_every_figure(panels):
    looks = {
        (trace.marker.color, trace.marker.symbol)
        for panel in panels.values()
        for trace in panel.figure.data
        if trace.name == "CMKD" and trace.marker.color != "var(--ink)"
    }
    assert looks == {("var(--method-1)", "square")}


def test_strength_is_drawn_for_students_with_several_teachers(panels):
    assert [title for section, title in panels if section == "Strength of the teacher"] == ["resnet14"]
    line = next(
        trace for trace in panels["Strength of the teacher", "resnet14"].figure.data if trace.name == "CMKD"
    )
    assert list(line.x) == pytest.approx([68, 72])
    assert list(line.y) == pytest.approx([65, 68.5])
    assert line.error_y.array[0] == pytest.approx(2**0.5)


def test_every_method_has_a_row_however_long_its_name(tmp_path):
    begin, end = "a method whose name begins alike", "and whose name ends alike"
    methods = [f"{begin}, once, {end}", f"{begin}, again, {end}", "x" * 40, "KD & <more>"]
    grid = write_grid(tmp_path / "grid", {STRONG: {method: {0: 0.6, 1: 0.7} for method in methods}})
    found = drawings(compare(read_grid(grid), "KD & <more>"), methods)
    rows = {section.title: section.panels[0].figure for section in found}
    for title, drawn in (("Test accuracy", methods), ("Difference to KD & <more>", methods[:3])):
        axis = rows[title].layout.yaxis
        assert {row for trace in rows[title].data for row in trace.y} == set(axis.tickvals)
        assert len(set(axis.tickvals)) == len(drawn)
        assert axis.ticktext[2] == "x" * 14 + "…" + "x" * 13
        assert all(len(html.unescape(text)) <= 28 for text in axis.ticktext)
    assert rows["Test accuracy"].layout.yaxis.ticktext[3] == "KD &amp; &lt;more&gt;"
    # plotly reads the titles of axes as markup, too
    assert rows["Difference to KD & <more>"].layout.xaxis.title.text == (
        "difference to KD &amp; &lt;more&gt; (points)"
    )


def test_curves_are_drawn_for_every_pair(panels):
    assert [title for section, title in panels if section == "Accuracy over the epochs"] == [
        "resnet20 → resnet14",
        "resnet56 → resnet14",
        "resnet56 → resnet8",
    ]


def test_without_a_validation_part_the_curves_are_those_of_the_test_set(tmp_path):
    grid = write_grid(tmp_path / "grid", {STRONG: {"KD": {0: 0.7}}}, each_epoch=True)
    file = grid / cell_name(*STRONG, "KD", 0) / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({k: row[k] for k in row if k != "validation"}) + "\n" for row in rows))
    section = next(each for each in drawings(compare(read_grid(grid)), ["KD"]) if "epochs" in each.title)
    assert section.panels[0].title == "resnet56 → resnet14, test set"
    assert list(section.panels[0].figure.data[0].y) == pytest.approx([0.6, 0.72, 0.7])


def test_latex_has_whole_tables_and_no_live_characters(grid):
    text = (grid / "table.tex").read_text(encoding="utf-8")
    tables = re.findall(r"\\begin\{tabular\}\{(\w+)\}\n(.*?)\\end\{tabular\}", text, flags=re.DOTALL)
    assert len(tables) == 4  # the overview and three pairs
    for columns, body in tables:
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(columns) - 1}
        assert body.count(r"\toprule") == body.count(r"\bottomrule") == 1
    live = re.sub(r"\\[&%$#_{}]", "", re.sub(r"^%.*$", "", text, flags=re.MULTILINE))
    assert live.count("{") == live.count("}")
    assert not re.search(r"%|#|_|(?<!\d)\^", live)
    assert r"a\_b \& 5 \% \textless{}i\textgreater{} & 2" in text
    assert r"KD, seed 1: failed: too \& small." in text


def test_the_augmentation_that_is_named_is_that_of_the_data(tmp_path):
    for name in ("a", "b"):
        for part in ("train", "test"):
            for number in range(4):
                file = tmp_path / part / name / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (16, 16)).save(file)
    for data in ("fashion-mnist-12k", f"folder:{tmp_path}"):
        assert customary(data) == cmkd.data.load(data).augment


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs LaTeX")
def test_latex_compiles(grid, tmp_path):
    body = (grid / "table.tex").read_text(encoding="utf-8")
    whole = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{body}\end{{document}}"
    (tmp_path / "whole.tex").write_text(whole, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "whole.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)


def test_latex_takes_no_text_for_a_command():
    assert escaped("[a] {b}\\c~^") == r"{[}a] \{b\}\textbackslash{}c\textasciitilde{}\textasciicircum{}"


def test_names_are_escaped_in_the_page(grid):
    source = (grid / "report.html").read_text(encoding="utf-8")
    assert "<i>" not in source
    page = Page(source)
    assert any(cell.endswith(ODD) for cell in page.cells)
    addresses = [value for _, name, value in page.attributes if name in {"src", "href"} and value != "data:,"]
    assert addresses
    assert all((grid / address).exists() for address in addresses if "%" not in address)


def test_the_page_shows_problems_and_marks(grid):
    text = Page((grid / "report.html").read_text(encoding="utf-8")).text
    assert "KD, seed 1: failed: too & small" in text
    assert "† CMKD had another budget than the rest: epochs 5 (others 3)." in text
    assert f"{ODD}, seed 0: missing" in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(41.6, "42 s"), (119.0, "119 s"), (150.0, "2.5 min"), (9000.0, "2.5 h")]
)
def test_durations_are_readable(seconds, text):
    assert duration(seconds) == text


@needs_browser
def test_a_browser_draws_every_figure_on_narrow_and_wide_pages(grid, tmp_path):
    look = """(page) => {
      const plots = [...page.querySelectorAll(".js-plotly-plot .main-svg:first-child")];
      return {
        page: page.documentElement.scrollWidth,
        plots: plots.length,
        widest: Math.max(...plots.map((plot) => plot.getBoundingClientRect().right)),
        failed: !page.getElementById("failure").hidden,
      };
    }"""
    narrow, wide, logged = on_narrow_and_wide(grid / "report.html", look, tmp_path, milliseconds=9000)
    assert narrow["plots"] == wide["plots"] == 10  # three figures of three pairs, and one of a student
    for found, width in ((narrow, 400), (wide, 1400)):
        assert found["page"] <= width
        assert found["widest"] <= width
        assert not found["failed"]
    assert "CONSOLE" not in logged

import base64
import gzip
import json
import re
from html.parser import HTMLParser

import pytest

from cmkd.errors import InputError
from cmkd.report import summary_rows, write_report
from tests.browser import dumped, needs_browser
from tests.report.synthetic import write_run


class Page(HTMLParser):
    """Elements, table cells and the text that a reader sees."""

    def __init__(self, source):
        super().__init__()
        self.attributes, self.cells, self.scripts, self.text = [], [], {}, ""
        self._script, self._cell = None, False
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.attributes += [(tag, name, value) for name, value in attrs.items()]
        self._script = attrs.get("id", "") if tag == "script" else "style" if tag == "style" else None
        if tag in ("td", "th"):
            self.cells.append("")
            self._cell = True

    def handle_endtag(self, tag):
        self._script = None
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self._script is not None:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
            return
        self.text += data
        if self._cell:
            self.cells[-1] += data


@pytest.fixture(scope="module")
def written(compared, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "new" / "report.html"
    return write_report(out, compared, title="Three <methods>", lead="Lead & <i>paragraph</i>.")


@pytest.fixture(scope="module")
def page(written):
    return Page(written.read_text(encoding="utf-8"))


def unpacked(script):
    return gzip.decompress(base64.b64decode(script)).decode()


def drawings_of(page):
    return [drawing for drawing in json.loads(unpacked(page.scripts["figures"])) if drawing]


def marked_up(cell):
    return re.sub(r"^[●■◆]", "", cell)


def test_the_table_is_plain_html_with_the_figures_of_the_summary(page, compared):
    cells = [marked_up(cell) for cell in page.cells]
    for row in summary_rows(compared):
        values = list(row.values())
        assert any(cells[start : start + len(values)] == values for start in range(len(cells)))


def test_the_page_asks_nobody_for_anything(written, page):
    addresses = [
        value for _, name, value in page.attributes if name in {"src", "href", "action", "srcset", "data"}
    ]
    assert addresses == ["data:,"]
    source = written.read_text(encoding="utf-8")
    assert not re.search(
        r"https?://|url\(|@import|\bimport\(|fetch\(", source.replace(page.scripts["plotly"], "")
    )


def test_plotly_is_in_the_page_once_and_whole(page):
    from plotly.offline import get_plotlyjs

    assert unpacked(page.scripts["plotly"]) == get_plotlyjs()


def test_the_page_is_below_two_and_a_half_megabytes(written):
    assert written.stat().st_size < 2.5e6


def test_the_drawings_hold_the_measured_numbers(page, compared):
    drawings = drawings_of(page)
    rows = [json.loads(line) for line in (compared["KD"][0] / "metrics.jsonl").read_text().splitlines()]
    traces = [trace for drawing in drawings for trace in drawing["data"]]
    lines = [trace["y"] for trace in traces if trace.get("name") == "KD"]
    for keys in (("validation", "accuracy"), ("validation", "rank_correlation"), ("train", "task")):
        assert [row[keys[0]][keys[1]] for row in rows] in lines


def test_every_drawing_is_described_in_words(page):
    labels = [value for tag, name, value in page.attributes if tag == "div" and name == "aria-label"]
    drawings = drawings_of(page)
    assert len(labels) == len(drawings)
    assert any("KD 82.00%; CMKD 85.33%" in label for label in labels)


def test_labels_titles_and_paths_are_escaped(tmp_path):
    run = write_run(tmp_path / "<i>run", "KD")
    source = write_report(
        tmp_path / "page.html", {"<b>&": [run], "</script>": [run]}, title="<u>", lead="<s>"
    ).read_text(encoding="utf-8")
    assert not re.search(r"<(b|i|u|s)>", source)
    assert source.count("</script>") == 3
    page = Page(source)
    assert {"<b>&", "</script>"} <= {marked_up(cell) for cell in page.cells}
    names = {trace.get("name") for drawing in drawings_of(page) for trace in drawing["data"]}
    assert "&lt;b&gt;&amp;" in names  # plotly reads names as markup, too


def test_how_it_was_measured_is_told(page):
    for said in (
        "fashion-mnist-12k",
        "10 % of the training images held out",
        "2,000 test images",
        "SGD, momentum 0.9 (Nesterov), weight decay 0.0005",
        "0.1, cosine, warm-up for 1 epoch",
        "bf16",
        "A processor (cpu, 2 threads)",
        "torch 2.9.0",
        "0123456789ab",
        "cross-entropy and KD with its defaults (KD); cross-entropy and CMKD with alpha: 8 (CMKD)",
        "resnet20 from runs/teacher, 272,474 parameters",
        "92.13% on the validation part",
        "80.00% (last epoch); 80.00% (best epoch, 5)",
    ):
        assert said in page.text


def test_several_seeds_and_single_runs_are_told_apart(page, compared, tmp_path):
    assert "± sample standard deviation" in page.text
    single = write_report(tmp_path / "page.html", {name: compared[name] for name in ("CE", "KD")}, title="x")
    assert "One run per method" in Page(single.read_text(encoding="utf-8")).text


def test_a_single_run_makes_a_page_with_a_lead_of_its_own(compared, tmp_path):
    page = Page(
        write_report(tmp_path / "page.html", {"CE": compared["CE"]}, title="x").read_text(encoding="utf-8")
    )
    assert "1 run: resnet8 trained on fashion-mnist-12k." in page.text
    assert "No run had a teacher to be compared with." in page.text


def test_of_an_absolute_path_only_the_end_is_passed_on(tmp_path):
    run = write_run(tmp_path / "run", "KD")
    options = (run / "config.yaml").read_text().replace("runs/teacher", "/home/somebody/private/demo/teacher")
    (run / "config.yaml").write_text(options)
    source = write_report(tmp_path / "page.html", {"KD": [run]}, title="x").read_text(encoding="utf-8")
    assert "somebody" not in source
    assert "…/demo/teacher" in source


def test_a_place_that_cannot_be_written_is_named_and_nothing_is_left(compared, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file/page\.html"):
        write_report(tmp_path / "file" / "page.html", {"CE": compared["CE"]}, title="x")
    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*taken"):
        write_report(tmp_path / "taken", {"CE": compared["CE"]}, title="x")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "taken"]


@needs_browser
def test_a_browser_draws_every_figure(written, tmp_path):
    seen, logged = dumped(written, tmp_path, milliseconds=8000)
    drawn = Page(seen)
    figures = drawings_of(drawn)
    classes = [value for tag, name, value in drawn.attributes if name == "class"]
    assert sum("js-plotly-plot" in value.split() for value in classes) == len(figures)
    assert sum(value == "main-svg" for value in classes) >= len(figures)
    assert ("p", "hidden", "") in drawn.attributes  # the notice of failure
    assert "CONSOLE" not in logged

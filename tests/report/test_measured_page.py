"""The page with all its figures, in a browser and from the command line."""

import numpy as np
import pytest

from cmkd.cli import main
from cmkd.report import report_runs, write_report
from cmkd.report.static import FORMATS
from cmkd.training import DistillConfig, TrainConfig, distill, train
from tests.browser import needs_browser, on_narrow_and_wide
from tests.report.details import write_details
from tests.report.synthetic import write_run
from tests.report.test_page import Page, drawings_of

#: Run in the page: what a reader would stumble over.
LOOK = """(page, window) => {
  const plots = [...page.querySelectorAll(".js-plotly-plot .main-svg:first-child")];
  const pictures = [...page.querySelectorAll(".gallery img")];
  const drawn = ".scatterlayer path, .scatterlayer text, .barlayer path, .heatmaplayer image";
  return {
    page: page.documentElement.scrollWidth,
    plots: plots.length,
    empty: plots.filter((plot) => !plot.querySelector(drawn)).length,
    widest: Math.max(...[...plots, ...pictures].map((each) => each.getBoundingClientRect().right)),
    pictures: pictures.filter((each) => each.complete && each.naturalWidth > 0).length,
    asked: window.performance.getEntriesByType("resource")
      .filter((each) => !/^(data|blob):/.test(each.name)).length,
    failed: !page.getElementById("failure").hidden,
  };
}"""


@pytest.fixture(scope="module")
def written(measured, tmp_path_factory):
    return write_report(tmp_path_factory.mktemp("page") / "report.html", measured, title="All", problems={})


def test_the_page_is_below_three_megabytes_and_asks_nobody(written):
    assert written.stat().st_size < 3e6
    page = Page(written.read_text(encoding="utf-8"))
    addresses = [value for _, name, value in page.attributes if name in {"src", "href", "srcset"}]
    assert all(address.startswith("data:") for address in addresses)


def test_without_being_asked_for_there_are_no_such_figures(measured, tmp_path):
    page = Page(write_report(tmp_path / "page.html", measured, title="x").read_text(encoding="utf-8"))
    assert "Mean logits" not in page.text


@needs_browser
def test_a_browser_shows_every_figure_on_narrow_and_wide_pages(written, tmp_path):
    narrow, wide, logged = on_narrow_and_wide(written, LOOK, tmp_path, milliseconds=12000)
    page = Page(written.read_text(encoding="utf-8"))
    pictures = sum(tag == "img" for tag, name, _ in page.attributes if name == "src")
    for found, width in ((narrow, 400), (wide, 1400)):
        assert found["plots"] == len(drawings_of(page))
        assert found["pictures"] == pictures > 20
        assert (found["empty"], found["asked"], found["failed"]) == (0, 0, False)
        assert found["page"] <= width
        assert found["widest"] <= width
    assert "CONSOLE" not in logged


@pytest.mark.usefixtures("tiny_networks")
def test_the_command_measures_what_is_missing_once_and_draws_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shared = {"epochs": 1, "batch_size": 512, "workers": 0}
    train(TrainConfig(model="tiny_networks:steady", out="teacher", **shared), progress=False)
    distill(
        DistillConfig(
            teacher="teacher", student="tiny_networks:staged", loss={"name": "KD"}, out="kd", **shared
        ),
        progress=False,
    )
    assert main(["report", "kd", "--images", "50", "--cpu", "true"]) == 0
    assert "figures: " in capsys.readouterr().out
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "Teacher (tiny_networks:steady)" in page.text
    assert "50 test images" in page.text
    files = {file.name for file in (tmp_path / "kd/figures").iterdir()}
    assert {f"mean-logits-class-by-class.{suffix}" for suffix in FORMATS} <= files
    kept = (tmp_path / "kd/details.npz").stat().st_mtime_ns

    monkeypatch.setattr("cmkd.report.page.save_figures", lambda *_: [])  # they take the longest
    (tmp_path / "teacher").rename(tmp_path / "elsewhere")  # nothing of it is needed any more
    assert main(["report", "kd", "--images", "50", "--cpu", "true"]) == 0
    assert (tmp_path / "kd/details.npz").stat().st_mtime_ns == kept
    (tmp_path / "kd/details.npz").unlink()
    assert main(["report", "kd", "--images", "20", "--cpu", "true"]) == 0
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "No teacher was at hand (not at hand" in text


def test_the_layout_that_was_asked_for_is_shown_whichever_run_has_it(known, tmp_path, monkeypatch):
    monkeypatch.setattr("cmkd.report.page.save_figures", lambda *_: [])  # they take the longest
    runs = []
    for seed, (layout, purity) in enumerate([("tsne", 0.25), ("umap", 0.75)]):
        run = write_run(tmp_path / str(seed), "KD", seed=seed)
        meta = {"layout": layout, "embedding": {"dimensions": 64, "purity": purity}}
        points = np.arange(40, dtype=np.float32).reshape(20, 2)
        targets = {"embedding": points, "embedding_targets": np.arange(20) % 2}
        runs.append(write_details(run, known["KD"], known["targets"], meta=meta, **targets))
    for layout, purity in (("umap", "purity 75.0%"), ("tsne", "purity 25.0%")):
        page, _ = report_runs(
            {"KD": runs}, tmp_path / "report.html", title="x", images=len(known["targets"]), layout=layout
        )
        assert purity in Page(page.read_text(encoding="utf-8")).text


def test_what_cannot_be_measured_is_said_in_place(tmp_path, capsys):
    run = write_run(tmp_path / "run", "KD")
    page, figures = report_runs({"KD": [run]}, tmp_path / "report.html", title="x", images=10)
    assert figures == run / "figures"
    assert "the run folder holds no weights" in Page(page.read_text(encoding="utf-8")).text
    assert main(["report", str(run), "--images=-1"]) == 2
    assert "--images is -1" in capsys.readouterr().err

"""The figures as files: all there, whole, and showing what the page shows."""

import xml.etree.ElementTree as ET

import plotly.graph_objects as go
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cmkd.report.figures import Panel, canvas
from cmkd.report.palette import LIGHT
from cmkd.report.sections import Section
from cmkd.report.static import FORMATS, save_figures
from cmkd.report.static_traces import color_of, draw


def axes_of(figure, *, key=False):
    axes = Figure().subplots()
    draw(axes, figure, key=key)
    return axes


def test_every_drawn_section_gives_three_whole_files_and_the_same_again(tmp_path):
    figure = canvas(ticks="~%", epochs=3)
    figure.add_scatter(
        x=[1, 2, 3], y=[0.1, 0.2, 0.4], name="KD", mode="lines+markers", line={"color": "var(--ink)"}
    )
    sections = [
        Section("First: one & all", "", [Panel("a", figure, ""), Panel("b", None, "nothing")]),
        Section("Nothing at all", "", [Panel("c", None, "nothing")]),
    ]
    files = save_figures(tmp_path / "one", sections)
    assert [file.name for file in files] == [f"first-one-all.{suffix}" for suffix in FORMATS]
    svg, pdf, png = files
    assert ET.parse(svg).getroot().tag.endswith("svg")
    assert pdf.read_bytes().startswith(b"%PDF")
    assert pdf.read_bytes().rstrip().endswith(b"%%EOF")
    assert Image.open(png).size == (1500, 465)
    again = save_figures(tmp_path / "two", sections)
    assert [file.read_bytes() for file in again] == [file.read_bytes() for file in files]


def test_lines_bands_and_constants_keep_their_numbers_and_colours():
    figure = canvas(ticks=None, epochs=2)
    figure.add_scatter(
        x=[1, 2], y=[3.0, 5.0], name="KD &lt;1&gt;", mode="lines+markers",
        line={"color": "var(--method-1)", "dash": "dash"}, marker={"symbol": "square"},
    )  # fmt: skip
    figure.add_scatter(x=[1, 2], y=[1.0, 1.0], name="other", mode="lines", line={"color": "var(--ink)"})
    figure.add_vline(x=1.5, line={"color": "var(--rule)"})
    axes = axes_of(figure, key=True)
    first, second, rule = axes.lines
    assert first.get_xydata().tolist() == [[1, 3], [2, 5]]
    assert (first.get_color(), first.get_linestyle(), first.get_marker()) == (LIGHT[1], "--", "s")
    assert second.get_marker() in ("", "None")
    assert list(rule.get_xdata()) == [1.5, 1.5]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["KD <1>", "other"]


def test_categories_stand_in_the_order_that_is_asked_for():
    figure = go.Figure(go.Scatter(x=[1.0, 2.0], y=["b", "a"], mode="markers", marker={"color": "var(--ink)"}))
    figure.update_yaxes(type="category", categoryarray=["a", "b"])
    axes = axes_of(figure)
    assert axes.lines[0].get_xydata().tolist() == [[1, 1], [2, 0]]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b"]


def test_stacked_bars_stand_on_each_other():
    figure = go.Figure()
    for name, heights in (("right", [1.0, 2.0]), ("wrong", [3.0, 4.0])):
        figure.add_bar(x=[0, 1], y=heights, width=0.5, name=name, marker={"color": "var(--ink)"})
    figure.update_layout(barmode="stack", template=go.layout.Template())
    bars = axes_of(figure).patches
    assert [(bar.get_y(), bar.get_height()) for bar in bars] == [(0, 1), (0, 2), (1, 3), (2, 4)]


def test_a_matrix_keeps_its_numbers_and_the_place_of_its_first_row():
    figure = canvas(ticks=None, epochs=None)
    colors = [[0, "var(--method-0)"], [0.5, "var(--paper)"], [1, "var(--method-1)"]]
    figure.add_heatmap(z=[[1, 2], [3, None]], x=["a", "b"], y=["a", "b"], zmin=-3, zmax=3, colorscale=colors)
    figure.update_xaxes(type="category")
    figure.update_yaxes(type="category", autorange="reversed")
    axes = axes_of(figure)
    (mesh,) = axes.collections
    assert mesh.get_array().filled(-9).ravel().tolist() == [1, 2, 3, -9]
    low, high = axes.get_ylim()
    assert low > high  # the first row is on top
    assert mesh.cmap(mesh.norm(3.0))[:3] == pytest.approx([0xD5 / 255, 0x5E / 255, 0], abs=0.01)


def test_only_colours_of_the_page_are_looked_up():
    assert color_of("var(--method-5)") == LIGHT[5]
    with pytest.raises(KeyError):
        color_of("var(--nothing)")

"""The page's figures as files for a paper: the same drawings, done again by matplotlib."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmkd.files import write_atomic
from cmkd.report.figures import Panel
from cmkd.report.picture import INK, INK_SOFT, STYLE
from cmkd.report.sections import Section
from cmkd.report.static_traces import draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

FORMATS = ("svg", "pdf", "png")
#: Inches: of a panel, and of the page of a paper.
HEIGHT, WIDTH = 3.1, 10.0
#: Pixels per inch of the PNG.
RESOLUTION = 150
#: Inches that a rem of the page's own heights is.
REM = 0.165


def save_figures(folder: Path, drawn: Sequence[Section]) -> list[Path]:
    """Write every figure of a page as SVG, PDF and PNG, named after its title.

    Args:
        folder: Where to; it is created.
        drawn: The figures; those without anything to draw are left out.

    Returns:
        The files.

    Raises:
        InputError: A file cannot be written.
    """
    import matplotlib

    files = []
    with matplotlib.rc_context({**STYLE, "font.size": 9, "axes.titlesize": 9.5, "axes.titleweight": "bold"}):
        for section in drawn:
            if (figure := _figure(section)) is None:
                continue
            for suffix in FORMATS:
                file = folder / f"{slug(section.title)}.{suffix}"
                files.append(write_atomic(file, _printed(figure, suffix)))
    return files


def _printed(figure: Figure, suffix: str) -> bytes:
    """Return a figure as a file, without a date: the same runs give the same bytes.

    By the canvas itself: `savefig` would draw everything once more first, to place what has been placed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    content = io.BytesIO()
    figure.set_dpi(RESOLUTION)
    if suffix == "svg":
        FigureCanvasSVG(figure).print_svg(content, metadata={"Date": None})
    elif suffix == "pdf":
        FigureCanvasPdf(figure).print_pdf(content, metadata={"CreationDate": None})
    else:
        FigureCanvasAgg(figure).print_png(content)
    return content.getvalue()


def slug(title: str) -> str:
    """Return a title as part of a file's name.

    Example:
        >>> slug("Mean logits: student less teacher")
        'mean-logits-student-less-teacher'
    """
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _figure(section: Section) -> Figure | None:
    from matplotlib.figure import Figure

    rows = _rows([panel for panel in section.panels if panel.figure is not None or panel.pictures])
    if not rows:
        return None
    heights = [max(map(_height, row)) for row in rows]
    figure = Figure(figsize=(WIDTH, sum(heights)), dpi=RESOLUTION, facecolor="white", layout="constrained")
    parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, row in zip(parts, rows, strict=True):
        for place, panel in zip(part.subfigures(1, len(row), squeeze=False)[0], row, strict=True):
            if panel.pictures:
                _show(place, panel)
            else:
                axes = place.subplots()
                axes.set_title(panel.title, loc="left", color=INK)
                draw(axes, panel.figure, key=section.key)
    figure.draw_without_rendering()  # places everything once, not once for every format
    figure.set_layout_engine("none")
    return figure


def _rows(panels: list[Panel]) -> list[list[Panel]]:
    """Put panels side by side, as many as the page does; a wide one stands alone."""
    narrow = sum(not panel.wide for panel in panels)
    most = 2 if narrow == 4 else 3
    rows: list[list[Panel]] = []
    for panel in panels:
        if panel.wide or not rows or rows[-1][0].wide or len(rows[-1]) == most:
            rows.append([])
        rows[-1].append(panel)
    return rows


def _height(panel: Panel) -> float:
    if panel.pictures:
        return 3.6 if panel.large else 1.85 if len(panel.pictures) <= 8 else 3.6
    return HEIGHT if panel.height is None else max(HEIGHT, panel.height * REM)


def _show(place: SubFigure, panel: Panel) -> None:
    """Show images with their captions."""
    import numpy as np
    from PIL import Image

    place.suptitle(panel.title, x=0.01, ha="left", color=INK, fontsize=9.5, fontweight="bold")
    columns = len(panel.pictures) if panel.large else max(4, min(8, len(panel.pictures)))
    grid = place.subplots(-(-len(panel.pictures) // columns), columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
        axes.set_anchor("N")  # captions hang below
    for axes, picture in zip(grid, panel.pictures, strict=False):
        axes.imshow(
            np.asarray(Image.open(io.BytesIO(picture.content)).convert("RGB")), interpolation="nearest"
        )
        note = picture.note.replace("; ", "\n")
        below: Any = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "top"}
        axes.annotate(picture.caption, (0, 0), (0, -4), color=INK, fontsize=7.5, **below)
        axes.annotate(note, (0, 0), (0, -14), color=INK_SOFT, fontsize=6.5, **below)

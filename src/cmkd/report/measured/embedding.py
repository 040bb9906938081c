"""A layout of what students make of images before their classifier (figure 5 of the paper)."""

from __future__ import annotations

import math

import numpy as np

from cmkd.report.figures import Panel, canvas
from cmkd.report.measured.sources import Source, Sources, plain
from cmkd.report.palette import PLOTLY_MARKERS, css_color
from cmkd.report.sections import Section

TITLE = "Features of the students"
#: Panels at most.
MOST = 6
_MEANS = {
    "tsne": "t-SNE (van der Maaten and Hinton 2008, perplexity 30, from the principal components)",
    "umap": "UMAP (McInnes et al. 2018, 15 neighbours, from random places)",
}


def sections(sources: Sources) -> list[Section]:
    """Return the figure."""
    if not sources.found:
        return [Section(TITLE, "", [Panel("Layout", None, sources.nothing())], key=False)]
    shown = sources.found[:MOST]
    means = " and ".join(_MEANS[layout] for layout in sorted({each.details.layout for each in shown}))
    caption = (
        "Features that go into the classifier, of test images of up to ten classes, laid out by "
        f"{means}. The layout shows who is near whom; distances between groups and their sizes say "
        "nothing. Purity: share of these images whose nearest neighbour, among the features themselves, is "
        "of their class."
    )
    return [Section(TITLE, caption + sources.left_out(), [_panel(each) for each in shown], key=False)]


def _panel(source: Source) -> Panel:
    meta = source.details.meta
    taught = f" under {meta['teacher']['network']}" if "teacher" in meta else ""
    title = f"{source.label}{taught}"
    if "embedding" not in meta:
        return Panel(title, None, f"Not measured: {meta['missing'].get('embedding', 'no embedding')}")
    points = source.details.array("embedding")
    targets = source.details.array("embedding_targets")
    # A thousandth of the picture: t-SNE's is a hundred wide, UMAP's ten.
    digits = 3 - math.floor(math.log10(max(float(np.ptp(points)), 1e-3)))
    figure = canvas(ticks=None, epochs=None)
    for place, each in enumerate(sorted(set(targets.tolist()))):
        chosen = points[targets == each]
        figure.add_scatter(
            x=[round(value, digits) for value in chosen[:, 0].tolist()],
            y=[round(value, digits) for value in chosen[:, 1].tolist()],
            name=plain(source.classes[each]),
            mode="markers",
            marker={
                "symbol": PLOTLY_MARKERS[place % len(PLOTLY_MARKERS)],
                "size": 5,
                "color": css_color(place),
                "opacity": 0.8,
            },
            hovertemplate="%{fullData.name}<extra></extra>",
        )
    bare = {"showticklabels": False, "showgrid": False, "ticks": "", "title_text": ""}
    figure.update_xaxes(**bare)
    figure.update_yaxes(**bare)
    figure.update_layout(hovermode="closest", showlegend=True, legend={"font_size": 11, "itemwidth": 30})
    found = meta["embedding"]
    said = f"{len(points):,} images, {found['dimensions']} features; purity {found['purity']:.1%}."
    return Panel(title, figure, said, told=True, height=26)

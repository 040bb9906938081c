"""How a method looks, the same in every figure: a colour that colour-blind readers can tell, and a marker."""

from __future__ import annotations

#: Okabe and Ito's colours, without their black and yellow, which vanish on a dark and on a white page.
LIGHT = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
#: The same hues, lifted where they are too dark for a dark page.
DARK = ("#3F9BD8", "#EA7A2A", "#20B98E", "#DD93BB", "#E9AD2F", "#9AD4F7")
#: One more marker than colours: every pair of the two is used before one comes again.
PLOTLY_MARKERS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x")
TEXT_MARKERS = ("●", "■", "◆", "▲", "▼", "✚", "✖")
MATPLOTLIB_MARKERS = ("o", "s", "D", "^", "v", "P", "X")


def css_color(index: int) -> str:
    """Return the colour of the method at a position as a reference to a variable of the page."""
    return f"var(--method-{index % len(LIGHT)})"


def text_marker(index: int) -> str:
    """Return the marker of the method at a position as a character."""
    return TEXT_MARKERS[index % len(TEXT_MARKERS)]


def css_variables(colors: tuple[str, ...]) -> str:
    """Return the declarations that `css_color` refers to."""
    return " ".join(f"--method-{index}: {color};" for index, color in enumerate(colors))

"""Draw the packages and what they import from as docs/images/house.svg: python scripts/draw_house.py."""

from __future__ import annotations

import argparse
from pathlib import Path

FILE = Path(__file__).parents[1] / "docs/images/house.svg"
WIDTH, STOREY, GAP = 760, 64, 10
#: From the top: packages side by side, what each is, and the colour of the storey.
STOREYS = (
    ("#c7d2fe", (("cli", "verbs: parse, call, print"),)),
    (
        "#ddd6fe",
        (
            ("bench", "grids of runs"),
            ("demo", "a first look"),
            ("report", "tables, figures"),
            ("export", "one file to ship"),
            ("hub", "cards, sharing"),
        ),
    ),
    ("#fbcfe8", (("training", "the loop, run folders, checkpoints, several processes"),)),
    ("#fde68a", (("evaluation", "accuracy, fidelity, calibration, corruptions, cost"),)),
    (
        "#bbf7d0",
        (
            ("teachers", "live or cached logits"),
            ("data", "images, augmentation"),
            ("models", "networks by name"),
        ),
    ),
    ("#a7f3d0", (("losses", "one method per file, on logits and on features"),)),
    (
        "#bae6fd",
        (("functional", "ranks, correlations, divergences"), ("kernels", "the same in C and Triton")),
    ),
)
GUEST = ("integrations", ("Lightning,", "Transformers,", "timm:", "one class", "each"))
TORCH_ONLY = 2  # storeys, from the ground


def text(x: float, y: float, words: str, *, size: int, bold: bool = False) -> str:
    """Return one centred line of text."""
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}"{weight} text-anchor="middle">{words}</text>'


def box(x: float, y: float, width: float, height: float, colour: str) -> str:
    """Return a room."""
    size = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
    return f'<rect {size} rx="6" fill="{colour}" stroke="#475569"/>'


def house() -> str:
    """Return the picture; its colours can be read on white and on black."""
    guest = 110
    left, right = GAP, WIDTH - GAP - guest - GAP
    roof = 46
    height = roof + len(STOREYS) * (STOREY + GAP) + 2 * GAP
    parts = [f'<path d="M{left} {roof} L{(left + right) / 2:g} 8 L{right} {roof} Z" fill="#64748b"/>']
    for storey, (colour, rooms) in enumerate(STOREYS):
        y = roof + GAP + storey * (STOREY + GAP)
        width = (right - left - GAP * (len(rooms) - 1)) / len(rooms)
        for place, (name, purpose) in enumerate(rooms):
            x = left + place * (width + GAP)
            parts.append(box(x, y, width, STOREY, colour))
            parts.append(text(x + width / 2, y + 27, name, size=16, bold=True))
            parts.append(text(x + width / 2, y + 47, purpose, size=12))
    x, bottom = right + GAP, roof + len(STOREYS) * (STOREY + GAP)
    top = bottom - TORCH_ONLY * (STOREY + GAP) - 2 * (STOREY + GAP) + GAP
    parts.append(box(x, top, guest, bottom - top, "#e2e8f0"))
    parts.append(text(x + guest / 2, top + 27, GUEST[0], size=16, bold=True))
    parts += [text(x + guest / 2, top + 50 + 17 * row, line, size=12) for row, line in enumerate(GUEST[1])]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="sans-serif" fill="#0f172a">'
    )
    title = "<title>The packages of cmkd; each imports only from those below it</title>"
    return "\n".join([head, title, *parts, "</svg>"]) + "\n"


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FILE)
    parser.parse_args().out.write_text(house(), encoding="utf-8")


if __name__ == "__main__":
    main()

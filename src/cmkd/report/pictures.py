"""Images of the data as part of a page."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """One image.

    Args:
        content: The image, as a WebP file.
        caption: What it shows.
        note: What else is to be said of it, in smaller letters.
    """

    content: bytes
    caption: str
    note: str = ""


def gallery(pictures: Sequence[Picture], *, large: bool = False) -> str:
    """Return images with their captions as HTML; the page needs no other file to show them."""
    items = "\n".join(
        f'<li><img src="data:image/webp;base64,{base64.b64encode(each.content).decode("ascii")}" '
        f'alt="{html.escape(each.caption)}"><span>{html.escape(each.caption)}</span>'
        f"<small>{html.escape(each.note)}</small></li>"
        for each in pictures
    )
    return f'<ul class="gallery{" large" if large else ""}">\n{items}\n</ul>'

"""What has to hold of the built documentation: links lead somewhere, nothing is loaded from another host."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: Attributes from which a browser loads without being asked to, by element.
LOADED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}
#: An address in a style sheet.
FOREIGN = re.compile(r"""(?:@import\s+|url\()['"]?((?:https?:)?//[^'")\s]+)""")


class Page(HTMLParser):
    """The links, loaded files and anchors of a page.

    Attributes:
        links: What a reader may follow.
        loaded: What the browser loads.
        anchors: Places on the page that can be linked to.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take down what an element refers to."""
        given = dict(attrs)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        elif given.get(LOADED.get(tag, "")):
            canonical = tag == "link" and given.get("rel") in ("canonical", "next", "prev")
            (self.links if canonical else self.loaded).append(given[LOADED[tag]])


def problems(site: Path) -> list[str]:
    """Return what is wrong with a built site, a line for each.

    Args:
        site: Folder of the built site.
    """
    pages = {page: Page(page.read_text(encoding="utf-8")) for page in sorted(site.rglob("*.html"))}
    pages.pop(site / "404.html", None)  # made for the root of a host
    found = []
    for page, content in pages.items():
        name = page.relative_to(site)
        foreign = [target for target in content.loaded if urlsplit(target).netloc]
        found += [f"{name} loads {target} from elsewhere" for target in foreign]
        for target in {*content.links, *content.loaded}:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if file.is_dir():
                file = file / "index.html"
            if not file.is_file():
                found.append(f"{name} refers to {target}, which does not exist")
            elif parts.fragment and file in pages and unquote(parts.fragment) not in pages[file].anchors:
                found.append(f"{name} links to {target}, which has no such place")
        if re.search(r'class="arithmatex">\\', page.read_text(encoding="utf-8")):
            found.append(f"{name} has a formula that was not drawn")
    for style in sorted(site.rglob("*.css")):
        foreign = FOREIGN.findall(style.read_text(encoding="utf-8"))
        found += [f"{style.relative_to(site)} loads {address} from elsewhere" for address in foreign]
    return found

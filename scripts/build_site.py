"""Build the documentation as static files: pip install "cmkd[docs]" && python scripts/build_site.py.

The Markdown files of the repository are written to be read where they lie: the first page is README.md, and
links lead to files outside of docs/. Here copies of them become pages of a site, with their links turned, and
Zensical builds it. Formulas then become MathML, which browsers draw without a script or font from elsewhere.
The result is checked (`site_checks.py`): links, anchors, and that nothing is loaded from another host.
"""

from __future__ import annotations

import argparse
import contextlib
import html
import io
import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from latex2mathml.converter import convert

sys.path.insert(0, str(Path(__file__).parent))
from site_checks import problems

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LANGUAGES = {".py": "python", ".yaml": "yaml", ".sh": "bash"}
AS_THEY_ARE = (".html", ".png", ".svg")

FENCE = re.compile(r"^( *)```.*?^\1``` *$", flags=re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', flags=re.DOTALL)


def site_path(file: str) -> str:
    """Return where a file or folder of the repository is among the pages.

    >>> site_path("README.md"), site_path("docs/data.md"), site_path("results/ranking/trap.png")
    ('index.md', 'data.md', 'logs/ranking/trap.png')
    >>> site_path("results/ranking"), site_path("examples/plain_loop.py"), site_path("benchmarks/specs")
    ('logs/ranking/index.md', 'source/examples/plain_loop.py.md', 'source/benchmarks/specs/index.md')
    """
    if file in PAGES:
        return PAGES[file]
    if file.startswith("docs/"):
        return file.removeprefix("docs/")
    place = re.sub(r"^results(?=/|$)", "logs", file)  # docs/results.md is a page already
    if place == file:
        place = f"source/{file}"
    if (ROOT / file).is_dir():
        return f"{place}/index.md"
    if Path(file).name == "README.md":
        return place.removesuffix("README.md") + "index.md"
    return place if Path(file).suffix in (*AS_THEY_ARE, ".md") else f"{place}.md"


def origin(file: str) -> str:
    """Return the file whose folder the links of a page are seen from."""
    return f"{file}/README.md" if (ROOT / file).is_dir() else file


def local(target: str) -> bool:
    """Say whether a link leads to a file, not to an address or a place on the same page."""
    return not (target.startswith(("#", "mailto:")) or "://" in target)


def linked(file: str, text: str) -> list[str]:
    """Return the files and folders of the repository that a page links to."""
    here = posixpath.dirname(origin(file))
    targets = (link[2].partition("#")[0] for link in LINK.findall(FENCE.sub("", text)) if local(link[2]))
    return [posixpath.normpath(posixpath.join(here, target)) for target in targets]


def notebook(path: Path) -> str:
    """Return the cells of a notebook, and what they showed, as a page."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for shown in (output.get("data", {}) for output in cell.get("outputs", [])):
            if "text/markdown" in shown:
                parts.append("".join(shown["text/markdown"]))
            elif "image/png" in shown:
                pixels = "".join(shown["image/png"]).replace("\n", "")
                parts.append(f'<img alt="What the cell drew" src="data:image/png;base64,{pixels}">')
    return "\n\n".join(parts) + "\n"


def as_markdown(file: str) -> str:
    """Return a file or folder as a page: Markdown as it is, a folder by its README, the rest as code."""
    path = ROOT / file
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        return notebook(path)
    if path.is_dir():
        for page in (path / "README.md", *sorted(path.glob("*.md"))):
            if page.is_file():
                return page.read_text(encoding="utf-8")
        parts = [as_markdown(each.relative_to(ROOT).as_posix()) for each in sorted(path.iterdir())]
        return f"# {file}\n\n" + "\n".join(re.sub("^# ", "## ", part) for part in parts)
    return f"# {file}\n\n```{LANGUAGES.get(path.suffix, '')}\n{path.read_text(encoding='utf-8')}```\n"


def title(page: str) -> str:
    """Return the heading of a page."""
    return re.findall(r"^# (.+)$", as_markdown(page), flags=re.MULTILINE)[0]


def turn_links(file: str, text: str) -> str:
    """Return the text of a page with its links as they are on the site."""
    place = posixpath.dirname(site_path(file)) or "."

    def turned(link: re.Match[str]) -> str:
        picture, words, target = link.groups()
        if not local(target):
            return link[0]
        path, hash_, anchor = target.partition("#")
        name = posixpath.normpath(posixpath.join(posixpath.dirname(origin(file)), path))
        if not (ROOT / name).exists() and name != "docs/reference/commands.md":
            raise SystemExit(f"{file} links to {target}, which does not exist.")
        if words == name and name.endswith(".md"):  # "see docs/data.md" is "see Data" here
            words = title(name)
        return f"{picture}[{words}]({posixpath.relpath(site_path(name), place)}{hash_}{anchor})"

    parts, end = [], 0
    for fence in FENCE.finditer(text):
        parts += [LINK.sub(turned, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, LINK.sub(turned, text[end:])])


def command_line() -> str:
    """Return the page of the command line: what every verb says of itself."""
    from cmkd.cli import main

    def said(*arguments: str) -> str:
        words = io.StringIO()
        with contextlib.redirect_stdout(words), contextlib.suppress(SystemExit):
            main(arguments)
        return words.getvalue().strip()

    os.environ["COLUMNS"] = "100"
    verbs = re.findall(r"^    (\w+) {2,}\S", said("--help"), flags=re.MULTILINE)
    parts = (f"## cmkd {verb}\n\n```text\n{said(verb, '--help')}\n```\n" for verb in verbs)
    return "# Command line\n\nMade from the options themselves: `cmkd VERB --help`.\n\n" + "\n".join(parts)


def write_pages(folder: Path) -> None:
    """Write all pages, and the pictures on them: docs/, README and the like, and whatever they link to."""
    shutil.copytree(ROOT / "docs", folder, ignore=shutil.ignore_patterns("*.md", "site.yml"))
    (folder / "reference").mkdir(exist_ok=True)
    (folder / "reference/commands.md").write_text(command_line(), encoding="utf-8")
    waiting = [*PAGES, *(file.relative_to(ROOT).as_posix() for file in (ROOT / "docs").rglob("*.md"))]
    seen = {"docs/reference/commands.md"}
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        place = folder / site_path(file)
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.suffix in AS_THEY_ARE:
            shutil.copyfile(ROOT / file, place)
            continue
        text = as_markdown(file)
        place.write_text(turn_links(file, text), encoding="utf-8")
        waiting += linked(file, text)


def configuration() -> dict[str, Any]:
    """Return the options of the site; pages that its menu leaves out are added under "How to"."""
    config = yaml.safe_load((ROOT / "docs/site.yml").read_text(encoding="utf-8"))
    config |= {"docs_dir": "pages", "site_dir": "site"}
    config["plugins"][1]["mkdocstrings"]["handlers"]["python"]["paths"] = [str(ROOT / "src")]
    named = set(re.findall(r"[\w/]+\.md", str(config["nav"])))
    (how_to,) = (each["How to"] for each in config["nav"] if "How to" in each)
    how_to += [
        {title(f"docs/{file.name}"): file.name}
        for file in sorted((ROOT / "docs").glob("*.md"))
        if file.name not in named
    ]
    return config


def draw_formulas(page: Path) -> None:
    """Replace the formulas of a built page by MathML."""

    def drawn(found: re.Match[str]) -> str:
        display = "block" if found[1] == "div" else "inline"
        return convert(html.unescape(found[3]).strip(), display=display)

    text = page.read_text(encoding="utf-8")
    page.write_text(FORMULA.sub(drawn, text), encoding="utf-8")


def main() -> int:
    """Build and check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build/docs", help="The site goes to OUT/site.")
    folder = parser.parse_args().out.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    write_pages(folder / "pages")
    config = folder / "mkdocs.yml"
    config.write_text(yaml.safe_dump(configuration(), sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", str(config)]
    if subprocess.run(command, cwd=folder, check=False, env={**os.environ, "NO_COLOR": "1"}).returncode:
        return 1
    for page in (folder / "site").rglob("*.html"):
        draw_formulas(page)
    found = problems(folder / "site")
    print("\n".join(found) if found else f"{folder / 'site'}: links, anchors and formulas are fine")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

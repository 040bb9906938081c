"""What the pages link to, name, say to type and show in Python is there, can be typed and runs."""

import re
import shlex
import unicodedata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    file.relative_to(ROOT).as_posix()
    for file in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("results/**/README.md")]
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
MADE = {"docs/reference/commands.md"}  # by scripts/build_site.py


def text(page):
    return (ROOT / page).read_text(encoding="utf-8")


def anchors(page):
    """Return the anchors of the headings, as GitHub and the site make them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", text(page)), flags=re.MULTILINE):
        plain = unicodedata.normalize("NFC", re.sub(r"[`*]", "", heading)).lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    missing = []
    for target in re.findall(r"\]\(([^()\s]+)\)", FENCE.sub("", text(page))):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        file = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        name = file.relative_to(ROOT).as_posix()
        if name not in MADE and not (
            file.exists() and (not anchor or file.suffix != ".md" or anchor in anchors(name))
        ):
            missing.append(target)
    assert not missing


def exists(name):
    """Say whether a dotted name is in the source, without importing what it may need."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        path = ROOT / "src" / Path(*parts[:cut])
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if file.is_file():
            names = parts[cut:]
            return all(re.search(rf"\b{each}\b", file.read_text(encoding="utf-8")) for each in names)
    return False


@pytest.mark.parametrize("page", PAGES)
def test_names_of_the_package_exist(page):
    prose = FENCE.sub("", text(page))
    names = set(re.findall(r"`(cmkd(?:\.\w+)+)(?:\(.*?\))?`", prose))
    names |= set(re.findall(r"^::: (cmkd[\w.]*)", prose, flags=re.MULTILINE))
    assert [name for name in sorted(names) if not exists(name)] == []


def commands(page):
    """Return the command lines of cmkd in the blocks of a page."""
    for language, block in FENCE.findall(text(page)):
        if language in ("", "bash", "console", "text"):
            prompt = "$ " if block.startswith("$ ") else ""  # what follows it is output
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith(f"{prompt}cmkd "):
                    yield shlex.split(line.removeprefix(prompt), comments=True)[1:]


@pytest.mark.parametrize("page", [page for page in PAGES if list(commands(page))])
def test_commands_can_be_typed(page):
    from cmkd.cli_options import parse

    for arguments in commands(page):
        loss = arguments[arguments.index("--loss") + 1] if "--loss" in arguments else ""
        if "--help" in arguments or "." in loss or "cosine.CosineLoss" in arguments:
            continue  # test_documents.py writes these files and runs the commands
        verb, _ = parse(arguments)
        assert verb == arguments[0]


@pytest.mark.parametrize("page", ["docs/ranking.md", "docs/theory.md"])
def test_python_runs(page, tmp_path, monkeypatch):
    """Of these pages; that of the others is run where what they need is made."""
    monkeypatch.chdir(tmp_path)
    blocks = [block for language, block in FENCE.findall(text(page)) if language == "python"]
    assert blocks
    for block in blocks:
        exec(block, {})

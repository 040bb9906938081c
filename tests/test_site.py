"""The documentation builds without a warning, links lead somewhere, and nothing is loaded from elsewhere."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for needed in ("zensical", "latex2mathml", "mkdocstrings"):
        pytest.importorskip(needed)
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, str(ROOT / "scripts/build_site.py"), "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def test_the_site_has_what_pages_promise(site):
    home, theory = ((site / f"{page}.html").read_text(encoding="utf-8") for page in ("index", "theory"))
    assert "logs/ranking/trap.png" in theory
    assert theory.count("<math") > 20
    assert "<h2" in home
    commands = (site / "reference/commands.html").read_text(encoding="utf-8")
    assert "cmkd distill" in commands
    assert "--distill_warmup_epochs" in commands


def test_the_reference_has_every_public_name(site):
    import cmkd.functional
    import cmkd.losses
    import cmkd.losses.features

    for page, module in (
        ("losses", cmkd.losses),
        ("features", cmkd.losses.features),
        ("functional", cmkd.functional),
    ):
        text = (site / f"reference/{page}.html").read_text(encoding="utf-8")
        aliases = {"Reduction", "RankMethod"}  # literals, described where they are used
        assert [name for name in module.__all__ if f'id="{module.__name__}.{name}"' not in text] == [
            name for name in module.__all__ if name in aliases
        ]


def test_the_checks_find_what_is_wrong(tmp_path):
    problems = runpy.run_path(str(ROOT / "scripts/site_checks.py"))["problems"]
    (tmp_path / "a.html").write_text('<p id="here"><a href="b.html#there">b</a> <a href="#here">a</a></p>')
    (tmp_path / "b.html").write_text(
        '<img src="none.png"><script src="https://x.org/y.js"></script><a href="https://x.org">x</a>'
    )
    (tmp_path / "c.css").write_text('@import "//fonts.example/f.css";')
    assert problems(tmp_path) == [
        "a.html links to b.html#there, which has no such place",
        "b.html loads https://x.org/y.js from elsewhere",
        "b.html refers to none.png, which does not exist",
        "c.css loads //fonts.example/f.css from elsewhere",
    ]

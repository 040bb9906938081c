"""The version is stated once, and what would be published has what it needs and nothing else."""

import re
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import cmkd

ROOT = Path(__file__).parents[1]
CHECKS = runpy.run_path(str(ROOT / "scripts/check_distribution.py"))


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == cmkd.__version__
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what the format asks for
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version"]' in project
    assert not re.search(r"^version\s*=", project, flags=re.MULTILINE)
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_stated_python_is_in_the_matrix():
    rows = runpy.run_path(str(ROOT / "scripts/matrix.py"), run_name="matrix")["ROWS"]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    stated = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)
    assert stated == sorted({row.python for row in rows})
    assert f'requires-python = ">={stated[0]}"' in project
    assert [row.python for row in rows if row.oldest] == [stated[0]]


def test_the_distributions_are_complete(tmp_path):
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = sorted(tmp_path.iterdir())
    assert [file.suffix for file in built] == [".whl", ".gz"]
    assert [problem for file in built for problem in CHECKS["problems"](file, cmkd.__version__)] == []


def test_what_is_missing_or_too_much_is_told(tmp_path):
    wheel = tmp_path / "cmkd-9.9-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in CHECKS["names"].__globals__["IN_WHEEL"][1:]:
            archive.writestr(name, "")
        archive.writestr("cmkd/__pycache__/x.pyc", "")
    found = CHECKS["problems"](wheel, "0.1.0")
    assert f"{wheel.name} has no cmkd/py.typed" in found
    assert f"{wheel.name} has cmkd/__pycache__/x.pyc" in found
    assert f"{wheel.name} is not of version 0.1.0" in found
    assert f"{wheel.name} has no cmkd/cli.py" in found

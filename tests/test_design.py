"""The picture of the house is what the script draws, and the packages import as it shows."""

import ast
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOUSE = runpy.run_path(str(ROOT / "scripts/draw_house.py"))
STOREYS = [[room for room, _ in rooms] for _, rooms in HOUSE["STOREYS"]]


def imported(module, package):
    """Return the packages of cmkd that a module imports, while it runs or for its types."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cmkd":
            parts = node.module.split(".")
            names = [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
            yield from (name for name in names if name != package)


def test_the_picture_of_the_house_is_current():
    assert HOUSE["house"]() == HOUSE["FILE"].read_text(encoding="utf-8")


@pytest.mark.parametrize("storey", range(1, len(STOREYS)))
def test_a_storey_imports_from_none_above_it(storey):
    above = {room for rooms in STOREYS[:storey] for room in rooms}
    found = [
        (str(module.relative_to(ROOT)), name)
        for package in STOREYS[storey]
        for module in sorted((ROOT / "src/cmkd" / package).rglob("*.py"))
        for name in imported(module, package)
        if name in above or name.startswith("cli")
    ]
    exceptions = {"src/cmkd/bench/sections.py"}  # reads options as the command line does
    assert {file for file, _ in found} <= exceptions

"""Run the tests under several Pythons, with the oldest or newest of what cmkd needs: scripts/matrix.py.

uv makes an environment for each row of the matrix; rows whose Python is not at hand are said to be left out.
The oldest row takes the least versions that pyproject.toml states. What follows `--` goes to pytest.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: What the tests need themselves. Extras are left out: their tests skip what is not installed.
TESTS = (
    "hypothesis>=6.100",
    "pytest>=8.3",
    "pytest-xdist>=3.6",
    "scikit-learn>=1.5",
    "setuptools",  # the compiler of PyTorch 2.6 imports it
    "torchmetrics>=1.5",
)


@dataclass(frozen=True)
class Row:
    """One environment.

    Attributes:
        python: Version of Python.
        oldest: Whether it has the oldest of the stated versions, else the newest.
    """

    python: str
    oldest: bool = False

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"python{self.python}-{'oldest' if self.oldest else 'newest'}"


ROWS = (Row("3.10", oldest=True), Row("3.10"), Row("3.11"), Row("3.12"), Row("3.13"))


def run(row: Row, folder: Path, arguments: list[str]) -> str:
    """Make the environment of a row, run the tests in it, and say what came out."""
    home = folder / row.name
    python = home / "bin/python"
    if not python.exists():
        if subprocess.run(
            ["uv", "venv", "--quiet", "--python", row.python, str(home)], check=False
        ).returncode:
            return f"left out: no Python {row.python} here"
        resolution = ["--resolution", "lowest-direct"] if row.oldest else []
        command = ["uv", "pip", "install", "--quiet", "--python", str(python)]
        done = subprocess.run([*command, *resolution, "--editable", str(ROOT)], check=False)
        if not done.returncode:
            done = subprocess.run([*command, *TESTS], check=False)
        if done.returncode:
            return "could not be installed"
    asked = "import sys, torch; print(sys.version.split()[0], torch.__version__)"
    versions = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False)
    tests = subprocess.run([python, "-m", "pytest", *arguments], cwd=ROOT, check=False)
    found = versions.stdout.split() or ["?", "?"]
    return f"Python {found[0]}, torch {found[1]}: {'passed' if tests.returncode == 0 else 'FAILED'}"


def main() -> int:
    """Run the rows that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "build/matrix", help="Where environments are kept."
    )
    parser.add_argument(
        "--rows", nargs="*", help=f"Some of {', '.join(row.name for row in ROWS)}; all by default."
    )
    parser.add_argument("pytest", nargs="*", help="Arguments of pytest, after --.")
    options = parser.parse_args()
    os.environ.pop("VIRTUAL_ENV", None)
    results = {
        row.name: run(row, options.folder.resolve(), options.pytest)
        for row in ROWS
        if not options.rows or row.name in options.rows
    }
    print("\n".join(f"{name}: {said}" for name, said in results.items()))
    return int(any("passed" not in said and "left out" not in said for said in results.values()))


if __name__ == "__main__":
    sys.exit(main())

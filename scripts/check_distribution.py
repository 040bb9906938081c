"""Check what `python -m build` made: python scripts/check_distribution.py dist/*."""

from __future__ import annotations

import argparse
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LARGEST_WHEEL = 8_000_000
LARGEST_SDIST = 12_000_000
IN_WHEEL = (
    "cmkd/py.typed",
    "cmkd/bench/published/cifar100.csv",
    "cmkd/data/assets/fashion_mnist_12k.npz",
    "cmkd/demo/teacher/student.safetensors",
    "cmkd/kernels/csrc/kernels.c",
    "cmkd/report/page.html",
)
IN_SDIST = ("README.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "pyproject.toml")
IN_SDIST += ("docs/site.yml", "scripts/build_site.py", "src/cmkd/py.typed", "tests/test_cli.py")
NOWHERE = ("__pycache__", ".pyc", ".egg-info", ".pytest_cache", "cmkd-demo", "runs/")


def names(file: Path) -> list[str]:
    """Return the files in a wheel, or in a source distribution below its only folder."""
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as archive:
            return archive.namelist()
    with tarfile.open(file) as archive:
        return [name.partition("/")[2] for name in archive.getnames()]


def problems(file: Path, version: str) -> list[str]:
    """Return what is wrong with a wheel or a source distribution.

    Args:
        file: `.whl` or `.tar.gz`.
        version: The version that it should have.
    """
    wheel = file.suffix == ".whl"
    found = names(file)
    said = [f"{file.name} has no {name}" for name in (IN_WHEEL if wheel else IN_SDIST) if name not in found]
    said += [f"{file.name} has {name}" for name in found if any(bad in name for bad in NOWHERE)]
    largest, size = LARGEST_WHEEL if wheel else LARGEST_SDIST, file.stat().st_size
    if size > largest:
        said.append(f"{file.name} has {size:,} bytes, more than {largest:,}")
    if not file.name.startswith(f"cmkd-{version}{'-py3-none-any.whl' if wheel else '.tar.gz'}"):
        said.append(f"{file.name} is not of version {version}")
    if wheel:
        modules = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src/cmkd").rglob("*.py")}
        said += [f"{file.name} has no {name}" for name in sorted(modules - set(found))]
    return said


def main() -> int:
    """Check the files that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    source = (ROOT / "src/cmkd/__init__.py").read_text(encoding="utf-8")
    version = source.partition('__version__ = "')[2].partition('"')[0]
    files = parser.parse_args().files
    found = [problem for file in files for problem in problems(file, version)]
    print("\n".join(found or [f"{file.name}: {file.stat().st_size:,} bytes, complete" for file in files]))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())

"""`python -m cmkd`."""

from cmkd.cli import run

run()

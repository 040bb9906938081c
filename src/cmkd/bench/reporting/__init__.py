"""The report of a grid: what its cells measured, method beside method, with what must be known of it."""

from cmkd.bench.reporting.results import is_grid
from cmkd.bench.reporting.writing import GridReport, report_grid

__all__ = ["GridReport", "is_grid", "report_grid"]

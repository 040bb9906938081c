"""Finished runs as something to look at: a table, one self-contained HTML page, a picture for a README.

Every function takes `groups`, a mapping from the name of a method to its runs, one per seed; `group_runs`
makes it from run folders.
"""

from cmkd.report.grouping import group_runs
from cmkd.report.measuring import report_runs
from cmkd.report.page import write_report
from cmkd.report.picture import save_picture
from cmkd.report.table import markdown_table, summary_rows

__all__ = ["group_runs", "markdown_table", "report_runs", "save_picture", "summary_rows", "write_report"]

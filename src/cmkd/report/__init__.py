"""Finished runs as something to look at: a table, one self-contained HTML page, a picture for a README.

Every function takes `groups`: a mapping from the name of a method to its runs, one per seed.
"""

from cmkd.report.page import write_report
from cmkd.report.picture import save_picture
from cmkd.report.table import markdown_table, summary_rows

__all__ = ["markdown_table", "save_picture", "summary_rows", "write_report"]

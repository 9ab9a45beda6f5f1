"""The report: one HTML file that says what went in, how the search went and how good the result is.

`ReportData` is what it says, `render_report` turns it into the page; the charts are pure functions that
return SVG. README.md beside this file says why it is drawn this way.
"""

from tunesmith_trainer.publish.report.data import ReportData
from tunesmith_trainer.publish.report.render import LARGEST_BYTES, ReportTooLarge, render_report

__all__ = ["LARGEST_BYTES", "ReportData", "ReportTooLarge", "render_report"]

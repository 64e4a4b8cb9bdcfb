"""The report of a run, for a browser and for Prefect's UI."""

from trivet.report.curve import curve_markdown
from trivet.report.page import FILE, write
from trivet.report.use import trial

__all__ = ["FILE", "curve_markdown", "trial", "write"]

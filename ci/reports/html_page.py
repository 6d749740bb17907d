"""Results as one HTML page."""

from __future__ import annotations

from ci.reports.context import Context
from ci.reports.html import report_html
from ci.reports.result import RunResult


def html_page(result: RunResult, context: Context) -> str:
    """The page, for the results folder itself: its links are relative to that."""
    return report_html(result.to_json(), context.folder)

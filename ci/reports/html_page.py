"""Results as one HTML page."""

from __future__ import annotations

import os
from urllib.parse import quote

from ci.reports.context import Context
from ci.reports.html import report_html
from ci.reports.html.checked import HERE
from ci.reports.result import RunResult


def html_page(result: RunResult, context: Context) -> str:
    """The page; its links lead to where the results can be read, else from where it goes to their folder."""
    return report_html(result.to_json(), context.folder, _base(context))


def _base(context: Context) -> str:
    if context.url:
        return f"{context.url.rstrip('/')}/"
    place = os.path.relpath(context.folder.resolve(), (context.output or context.folder).resolve())
    return HERE if place == "." else f"{quote(place)}/"

"""Results as one HTML page, where this installation can make one."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from ci.reports.context import Context
from ci.reports.result import RunResult

_Report = Callable[[Mapping[str, Any], Path], str]


def html_page(result: RunResult, context: Context) -> str:
    """The page, for the results folder itself: its links are relative to that.

    Raises:
        ModuleNotFoundError: the page's package, or a library that it draws with, is not installed.
    """
    report = cast(_Report, importlib.import_module("ci.reports.html").report_html)
    return report(result.to_json(), context.folder)

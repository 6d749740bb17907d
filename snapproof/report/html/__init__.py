"""Makes report.html: a run or a bench as one self-contained page, for a screen of any width and for paper."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from snapproof.report.context import Context
from snapproof.report.html.bench import bench_view
from snapproof.report.html.checked import HERE, clean, tail
from snapproof.report.html.page import run_page
from snapproof.report.html.pictures import Pictures
from snapproof.report.html.template import rendered
from snapproof.report.run_result import RunResult

REPORT_FILE = "report.html"


def html_page(result: RunResult, context: Context) -> str:
    """Return the page of a run as a format.

    Its links lead to `context.url`, or else from the folder of the report to the results folder.
    """
    return report_html(result.to_json(), context.folder, _base(context))


def _base(context: Context) -> str:
    if context.url:
        return f"{context.url.rstrip('/')}/"
    place = os.path.relpath(context.folder.resolve(), (context.output or context.folder).resolve())
    return HERE if place == "." else f"{quote(place)}/"


def report_html(result: Mapping[str, Any], folder: Path, base: str = HERE) -> str:
    """Return the page of a run, which fetches nothing.

    All texts are treated as hostile: escaped, cut to a bounded length, without control characters. Without
    matplotlib the page has no charts and says so.

    Args:
        result: the content of results.json; what is missing or of another type is left out.
        folder: the results folder. Logs that are in it are linked, each test's qmp.jsonl gives the timeline
            of its snapshots, and a bench.json is shown too.

        base: the beginning of links to its files; the default is for a page that lies in the folder.

    Returns:
        An HTML document. Where there are many tests, it says what it leaves out.
    """
    pictures = Pictures()
    return rendered("run.html", page=run_page(result, folder, pictures, base), missing=pictures.missing)


def bench_html(bench: Mapping[str, Any]) -> str:
    """Return the page of a bench alone.

    Args:
        bench: the content of bench.json.
    """
    pictures = Pictures()
    return rendered("bench.html", bench=bench_view(bench, pictures), missing=pictures.missing)


def sorry_html(result: Mapping[str, Any], why: str) -> str:
    """Return the page that takes the place of a run's page that could not be made.

    Args:
        result: the content of results.json, whose status is shown.
        why: a traceback, which is shown too.
    """
    return rendered("sorry.html", status=clean(result.get("status"), 12), why=tail(why))

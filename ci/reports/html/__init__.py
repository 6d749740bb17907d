"""report.html: a run or a bench as one self-contained page, for a desk, a phone and paper."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ci.reports.html.bench import bench_view
from ci.reports.html.checked import HERE, clean, tail
from ci.reports.html.page import run_page
from ci.reports.html.pictures import Pictures
from ci.reports.html.template import rendered

REPORT_FILE = "report.html"


def report_html(result: Mapping[str, Any], folder: Path, base: str = HERE) -> str:
    """The page of a run.

    Nothing in it is fetched from anywhere. All texts are taken for hostile: escaped, cut to a bounded length,
    without control characters. Without matplotlib the page has no charts and says so.

    Args:
        result: the content of results.json; what is missing or of another type is left out.
        folder: the results folder: logs in it are linked if they are there, each test's qmp.jsonl gives the
            timeline of its snapshots, and a bench.json in it is shown too.
        base: what links to its files begin with; as it is for a page in it.

    Returns:
        An HTML document. Where there are many tests, it says what it leaves out.
    """
    pictures = Pictures()
    return rendered("run.html", page=run_page(result, folder, pictures, base), missing=pictures.missing)


def bench_html(bench: Mapping[str, Any]) -> str:
    """The page of a bench alone.

    Args:
        bench: the content of bench.json.
    """
    pictures = Pictures()
    return rendered("bench.html", bench=bench_view(bench, pictures), missing=pictures.missing)


def sorry_html(result: Mapping[str, Any], why: str) -> str:
    """The page that stands in where a run's page could not be made: its status, and what happened.

    Args:
        result: the content of results.json.
        why: a traceback.
    """
    return rendered("sorry.html", status=clean(result.get("status"), 12), why=tail(why))

"""Makes the texts of measured figures for report.html, and a table of those of a test's snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from snapproof.report.html.checked import clean, number
from snapproof.report.html.views import Table

SNAPSHOT_FIGURES = {
    "stun_ms": "stun",
    "downtime_ms": "downtime",
    "total_ms": "total",
    "largest_write_stall_us": "longest stall",
    "file_bytes": "file",
    "pages_in_stream": "pages",
    "agent_pages_verified_offline": "verified (file)",
    "agent_pages_verified_in_restored_guest": "verified (restored)",
    "pages_compared_with_golden": "golden",
    "pages_written_during_save": "written meanwhile",
}
"""Names of a snapshot's figures in a table, in the order of its columns."""

NONE = "\N{EN DASH}"
"""Shown in a table in place of a missing figure."""

_SHOWN_SNAPSHOTS = 50
_UNITS = ("_us", "_ms", "_mib", "_bytes")


def figure_name(name: str) -> str:
    """Return the name of a figure in words, without the unit at its end."""
    unit = next((unit for unit in _UNITS if name.endswith(unit)), "")
    return clean(name.removesuffix(unit).replace("_", " "), 80)


def figure_text(name: str, value: object) -> str:
    """Return a figure as text with its unit, which is the end of its name."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return clean(value, 200)
    amount = number(value, float("nan"))
    if amount != amount:
        return clean(value, 40)
    if name.endswith("_us"):
        return _time(amount)
    if name.endswith("_ms"):
        return _time(amount * 1000)
    if name.endswith("_mib"):
        return f"{amount:,g} MiB"
    if name.endswith("_bytes"):
        return f"{amount / (1 << 20):,.1f} MiB"
    return f"{int(amount):,}" if amount == int(amount) else f"{amount:,.6g}"


def _time(microseconds: float) -> str:
    if microseconds < 1000:
        return f"{microseconds:,.0f} µs"
    if microseconds < 1e6:
        return f"{microseconds / 1000:,.3g} ms"
    return f"{microseconds / 1e6:,.4g} s"


def snapshot_table(figures: Mapping[str, Any]) -> Table:
    """Return a table with a row for each snapshot of a test and a column for each figure that one has."""
    labels: dict[str, dict[str, str]] = {}
    for name, value in figures.items():
        label, slash, figure = name.rpartition("/")
        if slash and figure in SNAPSHOT_FIGURES:
            labels.setdefault(label, {})[figure] = figure_text(figure, value)
    used = [name for name in SNAPSHOT_FIGURES if any(name in row for row in labels.values())]
    rows = [
        [clean(label, 80), *(row.get(name, NONE) for name in used)]
        for label, row in list(labels.items())[:_SHOWN_SNAPSHOTS]
    ]
    return Table(["snapshot", *(SNAPSHOT_FIGURES[name] for name in used)], rows, len(labels) - len(rows))

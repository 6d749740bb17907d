"""Draws the charts of report.html: a limited number, with unique ids, and a reason if there are none."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup

from snapproof.report.charts.times import SaveTimes
from snapproof.report.html.checked import clean, items, mapping

CHARTS = 24
"""Most charts of tests in one page; a chart takes about 30 ms and 20 KB."""

_RANGE_LIMIT = 20_000


class Pictures:
    """The charts of one page."""

    def __init__(self, limit: int = CHARTS) -> None:
        self._left = limit
        self._number = 0
        self.missing = ""
        self.used_up = False
        try:
            importlib.import_module("snapproof.report.charts.svg")
        except ImportError as error:
            self.missing = (
                f"There are no charts here: matplotlib could not be imported ({clean(error)}). "
                "It comes with snapproof's extra 'report': pip install 'snapproof[report]'."
            )

    def timeline(self, times: SaveTimes, stall_us: float | None) -> Markup:
        """Return the timeline of a save, empty if the limit is reached."""
        return self._drawn("timeline", lambda module, key: module.timeline_chart(times, stall_us, key))

    def page_map(self, ranges: object, lengths: Mapping[str, int], title: str) -> Markup:
        """Return the map of a check's ranges as a results file has them, empty if the limit is reached."""
        found: dict[str, list[tuple[int, int]]] = {}
        for one in map(mapping, items(ranges, _RANGE_LIMIT)):
            start, end = one.get("start"), one.get("end")
            if isinstance(start, int) and isinstance(end, int) and 0 <= start < end < 1 << 63:
                found.setdefault(clean(one.get("block"), 80), []).append((start, end))
        if not found:
            return Markup()
        return self._drawn("page_map", lambda module, key: module.page_map_chart(found, lengths, key, title))

    def bench(self, draw: Callable[[Any, str], str]) -> Markup:
        """Return a chart of a bench, which does not count; `draw` takes the module and the key for ids."""
        return self._drawn("bench", draw, counted=False)

    def _drawn(self, name: str, draw: Callable[[Any, str], str], counted: bool = True) -> Markup:
        """Return the SVG that `draw` makes, whose texts are already escaped."""
        if self.missing:
            return Markup()
        if counted and not self._left:
            self.used_up = True
            return Markup()
        self._left -= counted
        self._number += 1
        try:
            svg = draw(importlib.import_module(f"snapproof.report.charts.{name}"), f"chart{self._number}")
        except (ArithmeticError, ValueError) as error:
            # A results file may hold figures that no axis can show.
            return Markup("<p class='note'>This chart could not be drawn: {}.</p>").format(clean(error))
        return Markup(svg)

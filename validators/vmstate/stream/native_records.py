"""Reads plain page records by the native core; everything else, and every judgement, is records.py's."""

from __future__ import annotations

import numpy as np

from validators.native.library import (
    EVENT_AGAIN,
    EVENT_FILL,
    EVENT_OUTSIDE,
    STOP_EVENTS,
    Core,
    Numbers,
    Walk,
)
from validators.vmstate.stream import format as fmt
from validators.vmstate.stream.collector import Collector
from validators.vmstate.stream.records import RamScanner
from validators.vmstate.stream.source import Source


class NativeScanner(RamScanner):
    """Reads the records of RAM sections into a Collector.

    C passes over records of the RAMBlock named last, and enters their pages. It stops at any other: a name
    that was not the last one, a word that is no page's, bytes that end. The record that it stops at is read
    as by RamScanner.
    """

    def __init__(self, source: Source, collector: Collector, page_size: int, core: Core) -> None:
        super().__init__(source, collector, page_size)
        self._core = core
        self._walk = Walk(page_size)
        self._told: bytes | None = None

    def _pass_plain(self, at: int) -> int:
        self._take_noted()
        if self._name is None or not self._told_block():
            return at
        self._walk.state.small_left = max(0, fmt.MAX_SMALL_RECORDS - self._small)
        before = self._walk.state.small_left
        stop = STOP_EVENTS
        while stop == STOP_EVENTS:
            stop, at = self._core.walk(self._walk, self._view, self._base, at)
            self._take_walked()
        self._small += before - self._walk.state.small_left
        return at

    def _told_block(self) -> bool:
        """Tell C the RAMBlock named last; return whether C may enter pages in it."""
        sources = None if self._block is None else self._collector.blocks[self._block].page_source
        if sources is not None and not sources.flags.writeable:
            # The first of its records is an error, which names the record.
            return False
        if self._name is not self._told and self._name is not None:
            self._walk.enter_block(self._name, sources)
            self._told = self._name
        return True

    def _take_walked(self) -> None:
        data, zero = self._walk.take_records()
        self._collector.records["page"] += data
        self._collector.records["zero"] += zero
        events = self._walk.take_events()
        if len(events):
            self._take_events(events)

    def _take_events(self, events: Numbers) -> None:
        kinds = events[:, 0]
        for _, fill, place, offset in events[kinds == EVENT_FILL].tolist():
            self._collector.bad_fill(fill, place, offset % (1 << 64), self._block)
        if self._block is None:
            return
        outside, again = events[kinds == EVENT_OUTSIDE], events[kinds == EVENT_AGAIN]
        if len(outside):
            block = self._collector.blocks[self._block]
            self._collector.note_outside(block, outside[:, 1], outside[:, 2])
        if len(again):
            columns = np.ascontiguousarray(again.T)
            self._collector.note_duplicates(
                self._block, columns[1], columns[2], columns[3], self._section_start
            )

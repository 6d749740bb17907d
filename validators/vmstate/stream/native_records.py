"""Reads plain page records by the native core; everything else, and every judgement, is records.py's."""

from __future__ import annotations

import numpy as np

from harness.codes import Code
from harness.errors import SetupBroken
from validators.native.library import (
    EVENT_AGAIN,
    EVENT_FILL,
    EVENT_OUTSIDE,
    STOP_EVENTS,
    STOP_UNREADABLE,
    Core,
    Numbers,
    Walk,
)
from validators.vmstate.stream import format as fmt
from validators.vmstate.stream.collector import Collector
from validators.vmstate.stream.following import Follower
from validators.vmstate.stream.records import RamScanner
from validators.vmstate.stream.source import FileSource, Source


class NativeScanner(RamScanner):
    """Reads the records of RAM sections into a Collector.

    C passes over records of the RAMBlock named last, and enters their pages. It stops at any other: a name
    that was not the last one, a word that is no page's, bytes that end. The record that it stops at is read
    as by RamScanner.
    """

    def __init__(
        self, source: Source, collector: Collector, page_size: int, core: Core,
        follower: Follower | None = None,
    ) -> None:  # fmt: skip
        super().__init__(source, collector, page_size)
        self._core = core
        self._file = source if isinstance(source, FileSource) else None
        self._follower = follower if self._file is not None else None
        self._walk = Walk(page_size, notes=self._follower is not None)
        self._told: bytes | None = None
        self._noted: list[tuple[Numbers, Numbers]] = []

    def scan(self, position: int) -> tuple[int, int | None]:
        """Read records as RamScanner does."""
        end = super().scan(position)
        # The next section may move the window.
        self._hand_on()
        return end

    def _pass_plain(self, at: int) -> int:
        self._take_noted()
        if self._name is None or not self._told_block():
            return at
        self._walk.state.small_left = max(0, fmt.MAX_SMALL_RECORDS - self._small)
        before = self._walk.state.small_left
        stop = STOP_EVENTS
        while stop == STOP_EVENTS:
            stop, at = self._core.walk(self._walk, self._view, self._base, at)
            if stop == STOP_UNREADABLE:
                self._raise_unreadable()
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
        if self._follower is not None:
            self._noted.append(self._walk.take_notes())

    def _take_noted(self) -> None:
        if self._follower is not None and self._block is not None:
            self._set_aside()
            pages = self._collector.blocks[self._block].pages
            for words, places in self._parts:
                numbers = (words >> np.uint64(self._shift)).view(np.int64)
                kept = (places > 0) & (numbers < pages)
                self._noted.append((numbers[kept], places[kept]))
        super()._take_noted()

    def _enter_block(self, name: bytes, offset: int) -> None:
        if name != self._name:
            self._take_noted()
            self._hand_on()
        super()._enter_block(name, offset)

    def _release(self, position: int) -> None:
        self._hand_on()
        super()._release(self._follower.needed_from(position) if self._follower else position)

    def _hand_on(self) -> None:
        """Hand the pages of one RAMBlock and one window on to the follower, in the order of the file."""
        noted, self._noted = self._noted, []
        if self._follower is None or self._file is None or self._block is None:
            return
        pages = np.concatenate([np.zeros(0, np.int64), *(one for one, _ in noted)])
        places = np.concatenate([np.zeros(0, np.int64), *(one for _, one in noted)])
        if len(pages):
            block = self._collector.blocks[self._block]
            self._follower.take(self._file, self._block, block, pages, places, self._base)

    def _raise_unreadable(self) -> None:
        """Raise the error of a window that can no longer be read.

        Raises:
            StreamError: the file became shorter.
            SetupBroken: the disk fails.
        """
        self._source.window(self._base, self._filled)
        self._source.read(self._base, self._filled)
        raise SetupBroken(
            f"The file could not be read at offset {self._base} at first, and can be now; check it again.",
            code=Code.SETUP_UNREADABLE,
        )

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

"""Collects what the reader finds, in bounded lists: page sources by RAMBlock, duplicates, anomalies."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

from harness.codes import Code
from validators.vmstate.stream.format import StreamError
from validators.vmstate.stream.index import MISSING, Anomaly, Block, Duplicates

ANOMALY_LIMIT = 1000
DUPLICATE_LIMIT = 1 << 20
_SINGLES = 4 << 10

Pages = npt.NDArray[np.int64]


class Collector:
    """The content of a SnapshotIndex while a stream is read.

    Attributes:
        blocks: RAMBlocks so far.
        anomalies: the first ANOMALY_LIMIT broken rules of each kind.
        counts: number of all broken rules by kind.
        records: number of page records by kind.
    """

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.anomalies: list[Anomaly] = []
        self.counts: Counter[str] = Counter()
        self.records: Counter[str] = Counter()
        self._by_name: dict[str, int] = {}
        self._duplicates: list[tuple[Pages, Pages, Pages, Pages, npt.NDArray[np.bool_]]] = []
        self._single: list[tuple[int, int, int, int, bool]] = []
        self._duplicate_total = 0

    def anomaly(
        self, code: Code, sentence: str, offset: int, block: str = "", page: int | None = None
    ) -> None:
        """Note a broken rule; `page` is a byte offset inside the block."""
        check = code.subject
        self.counts[check] += 1
        if self.counts[check] <= ANOMALY_LIMIT:
            self.anomalies.append(Anomaly(code, sentence, offset, block, page))

    def add_block(self, block: Block) -> None:
        """Add a RAMBlock; of two with one name records mean the first."""
        self._by_name.setdefault(block.idstr, len(self.blocks))
        self.blocks.append(block)

    def find_block(self, idstr: str) -> int | None:
        """Return the position of the RAMBlock with that name, None if there is none."""
        return self._by_name.get(idstr)

    def bad_fill(self, fill: int, offset: int, page: int, number: int | None) -> None:
        """Note a zero-page record with a fill byte other than 0, for byte offset `page` of a block."""
        self.counts["zero-fill"] += 1
        if self.counts["zero-fill"] <= ANOMALY_LIMIT:
            block = self.blocks[number].idstr if number is not None else ""
            sentence = f"A zero-page record has the fill byte 0x{fill:02x} instead of 0."
            self.anomalies.append(Anomaly(Code.ZERO_FILL_NOT_ZERO, sentence, offset, block, page))

    def add_pages(self, number: int, pages: Pages, sources: Pages, section_start: int) -> None:
        """Note page records of one RAMBlock, in file order.

        Args:
            number: position of the RAMBlock.
            pages: page numbers; they may lie outside of the RAMBlock.
            sources: page_source value of each.
            section_start: file offset of the section's content, to find duplicates within it.

        Raises:
            StreamError: the file is too short for so many records.
        """
        block = self.blocks[number]
        target = block.page_source
        if not target.flags.writeable:
            raise StreamError(
                Code.TRUNCATED_TOO_SHORT,
                f"The file is too short to hold the {block.pages} pages of RAMBlock '{block.idstr}'.",
                abs(int(sources[0])),
            )
        inside = pages < block.pages
        if not inside.all():
            self.note_outside(block, pages[~inside], sources[~inside])
            pages, sources = pages[inside], sources[inside]
        earlier = target[pages]
        target[pages] = sources
        if (target[pages] != sources).any():
            # A page has several of these records.
            target[pages] = earlier
            self._store_in_turn(number, pages, sources, section_start)
        elif earlier.any():
            self.note_duplicates(number, pages, earlier, sources, section_start)

    def add_page(self, number: int, page: int, source: int, section_start: int) -> None:
        """Note one page record, as add_pages() does."""
        block = self.blocks[number]
        if page >= block.pages or not block.page_source.flags.writeable:
            one = np.array([[page], [source]], np.int64)
            self.add_pages(number, one[0], one[1], section_start)
            return
        earlier = int(block.page_source[page])
        block.page_source[page] = source
        if earlier != MISSING:
            self.counts["duplicate"] += 1
            if self._duplicate_total < DUPLICATE_LIMIT:
                self._duplicate_total += 1
                self._single.append((number, page, earlier, source, abs(earlier) >= section_start))
                if len(self._single) >= _SINGLES:
                    self._join_single()

    def _join_single(self) -> None:
        """Turn the duplicates that were noted one by one into arrays, which take less memory."""
        if self._single:
            columns = np.array(self._single, np.int64).T.copy()
            self._duplicates.append((columns[0], *columns[1:4], columns[4].astype(np.bool_)))
            self._single.clear()

    def note_outside(self, block: Block, pages: Pages, sources: Pages) -> None:
        """Note records of pages that lie outside of their RAMBlock, in file order."""
        left = max(0, ANOMALY_LIMIT - self.counts["page-outside-block"])
        for page, source in zip(pages[:left].tolist(), sources[:left].tolist(), strict=True):
            offset = page * block.page_size
            self.anomaly(
                Code.PAGE_OUTSIDE_BLOCK_RECORD,
                f"A page record names offset 0x{offset:x} of RAMBlock '{block.idstr}', "
                f"which has only 0x{block.used_length:x} bytes.",
                abs(source),
                block.idstr,
                offset,
            )
        # Counted last: anomaly() keeps none when the limit is passed.
        self.counts["page-outside-block"] += max(0, len(pages) - left)

    def _store_in_turn(self, number: int, pages: Pages, sources: Pages, section_start: int) -> None:
        """Enter records of which several are of one page: the last one counts."""
        target = self.blocks[number].page_source
        order = np.argsort(pages, kind="stable")
        sorted_pages, sorted_sources = pages[order], sources[order]
        again = sorted_pages[1:] == sorted_pages[:-1]
        earlier = target[sorted_pages]
        earlier[1:][again] = sorted_sources[:-1][again]
        in_file_order = np.empty_like(earlier)
        in_file_order[order] = earlier
        self.note_duplicates(number, pages, in_file_order, sources, section_start)
        last = np.append(~again, True)
        target[sorted_pages[last]] = sorted_sources[last]

    def note_duplicates(
        self, number: int, pages: Pages, earlier: Pages, later: Pages, section_start: int
    ) -> None:
        """Note the records whose page had one before (`earlier` is not MISSING)."""
        again = earlier != MISSING
        count = int(np.count_nonzero(again))
        self.counts["duplicate"] += count
        room = DUPLICATE_LIMIT - self._duplicate_total
        if room > 0:
            where = np.flatnonzero(again)[:room]
            self._duplicate_total += len(where)
            same = np.abs(earlier[where]) >= section_start
            self._join_single()
            block = np.full(len(where), number, np.int64)
            self._duplicates.append((block, pages[where], earlier[where], later[where], same))

    def duplicates(self) -> Duplicates:
        """Return all duplicate records so far, at most DUPLICATE_LIMIT."""
        self._join_single()
        if not self._duplicates:
            none = np.zeros(0, np.int64)
            return Duplicates(none, none, none, none, np.zeros(0, np.bool_))
        return Duplicates(
            np.concatenate([part[0] for part in self._duplicates]),
            np.concatenate([part[1] for part in self._duplicates]),
            np.concatenate([part[2] for part in self._duplicates]),
            np.concatenate([part[3] for part in self._duplicates]),
            np.concatenate([part[4] for part in self._duplicates]),
        )

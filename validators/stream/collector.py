"""Collects what the reader meets: page sources per RAMBlock, duplicates, anomalies. Bounded lists."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

from validators.stream.index import MISSING, Anomaly, Block, Duplicates

ANOMALY_LIMIT = 1000
DUPLICATE_LIMIT = 1 << 20

Pages = npt.NDArray[np.int64]


class Collector:
    """The growing content of a SnapshotIndex.

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
        self._duplicates: list[tuple[int, Pages, Pages, Pages, npt.NDArray[np.bool_]]] = []
        self._duplicate_total = 0

    def anomaly(
        self, check: str, sentence: str, offset: int, block: str = "", page: int | None = None
    ) -> None:
        """Note a broken rule; `page` is a byte offset inside the block."""
        self.counts[check] += 1
        if self.counts[check] <= ANOMALY_LIMIT:
            self.anomalies.append(Anomaly(check, sentence, offset, block, page))

    def add_block(self, block: Block) -> None:
        """Add a RAMBlock; of two with one name the first is the one that records mean."""
        self._by_name.setdefault(block.idstr, len(self.blocks))
        self.blocks.append(block)

    def find_block(self, idstr: str) -> int | None:
        """Position of the RAMBlock with that name, None where there is none."""
        return self._by_name.get(idstr)

    def add_pages(self, number: int, pages: Pages, sources: Pages, section_start: int) -> None:
        """Note page records of one block, in file order.

        Args:
            number: position of the block.
            pages: page numbers, may lie outside the block.
            sources: page_source value of each.
            section_start: file offset of the section's content, to tell duplicates within it.
        """
        block = self.blocks[number]
        inside = pages < block.pages
        if not inside.all():
            for page, source in zip(pages[~inside][:ANOMALY_LIMIT], sources[~inside], strict=False):
                offset = int(page) * block.page_size
                self.anomaly(
                    "page-outside-block",
                    f"A record is for offset 0x{offset:x} of RAMBlock '{block.idstr}', "
                    f"which has only 0x{block.used_length:x} bytes.",
                    abs(int(source)),
                    block.idstr,
                    offset,
                )
            self.counts["page-outside-block"] += max(0, int((~inside).sum()) - ANOMALY_LIMIT)
            pages, sources = pages[inside], sources[inside]
        self._store(number, block, pages, sources, section_start)

    def _store(self, number: int, block: Block, pages: Pages, sources: Pages, section_start: int) -> None:
        target = block.page_source
        if len(pages) > 1 and not (pages[1:] > pages[:-1]).all():
            first = np.zeros(len(pages), np.bool_)
            first[np.unique(pages, return_index=True)[1]] = True
            if not first.all():
                self._store(number, block, pages[first], sources[first], section_start)
                pages, sources = pages[~first], sources[~first]
                # What is left may hold a page several times; one at a time, it is an odd file anyway.
                for page, source in zip(pages, sources, strict=True):
                    self._store(number, block, np.array([page]), np.array([source]), section_start)
                return
        earlier = target[pages]
        again = earlier != MISSING
        if again.any():
            self._note_duplicates(number, pages[again], earlier[again], sources[again], section_start)
        target[pages] = sources

    def _note_duplicates(
        self, number: int, pages: Pages, earlier: Pages, later: Pages, section_start: int
    ) -> None:
        self._duplicate_total += len(pages)
        self.counts["duplicate"] += len(pages)
        if self._duplicate_total <= DUPLICATE_LIMIT:
            self._duplicates.append((number, pages, earlier, later, np.abs(earlier) >= section_start))

    def duplicates(self) -> Duplicates:
        """All duplicate records so far, at most DUPLICATE_LIMIT."""
        if not self._duplicates:
            none = np.zeros(0, np.int64)
            return Duplicates(none, none, none, none, np.zeros(0, np.bool_))
        return Duplicates(
            np.concatenate([np.full(len(part[1]), part[0], np.int64) for part in self._duplicates]),
            np.concatenate([part[1] for part in self._duplicates]),
            np.concatenate([part[2] for part in self._duplicates]),
            np.concatenate([part[3] for part in self._duplicates]),
            np.concatenate([part[4] for part in self._duplicates]),
        )

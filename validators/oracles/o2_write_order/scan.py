"""Finds every agent page in a vmstate file and reads its header."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from guest_images.agent import pages as ap
from guest_images.agent.format import (
    CONTROL_MAGIC,
    DATA_MAGIC,
    DIRECTORY_MAGIC,
    PAGE_BYTES,
    THREAD_MAGIC,
    DataWord,
    PageWord,
)
from validators.native.library import AGENT_DATA, AGENT_OTHER, CoreFile, native_core
from validators.vmstate.pages import Batch, PageReader
from validators.vmstate.stream.following import PageWork
from validators.vmstate.stream.index import Block

NAME = "write-order"

Numbers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
# 128 MiB; the directories of 64 GiB of agent pages.
_MAX_SPECIAL = 32_768
_SPECIAL = (CONTROL_MAGIC, THREAD_MAGIC, DIRECTORY_MAGIC)


@dataclass(frozen=True)
class DataPages:
    """All data pages found, as arrays of equal length in file order.

    Attributes:
        block: int64, position of the RAMBlock.
        page: int64, page number in it.
        header: uint64[k, 6], the words before the body: columns are numbered by PageWord and DataWord.
        intact: bool, whether body and checksum agree with the header.
    """

    block: Numbers
    page: Numbers
    header: Words
    intact: npt.NDArray[np.bool_]

    def select(self, mask: npt.NDArray[np.bool_]) -> DataPages:
        """Return the pages for which `mask` is set."""
        return DataPages(self.block[mask], self.page[mask], self.header[mask], self.intact[mask])


@dataclass(frozen=True)
class SpecialPage:
    """A control, thread or directory page.

    Attributes:
        block: position of the RAMBlock.
        page: page number in it.
        words: the 512 words.
    """

    block: int
    page: int
    words: Words = field(repr=False)

    def __getitem__(self, number: int) -> int:
        return int(self.words[number])


@dataclass(frozen=True)
class AgentScan:
    """All agent pages of a file.

    Attributes:
        data: the data pages.
        controls: control pages.
        threads: thread pages.
        directories: directory pages.
    """

    data: DataPages
    controls: tuple[SpecialPage, ...]
    threads: tuple[SpecialPage, ...]
    directories: tuple[SpecialPage, ...]


_Part = tuple[Numbers, Words, npt.NDArray[np.bool_], list[tuple[int, Words]]]


def scan_agent(reader: PageReader) -> AgentScan:
    """Read all pages once and return the agent's; a RAMBlock with other than its page size has none."""
    parts: list[tuple[Numbers, Numbers, Words, npt.NDArray[np.bool_]]] = []
    special: dict[int, list[SpecialPage]] = {magic: [] for magic in _SPECIAL}
    left = _MAX_SPECIAL
    for number, block in enumerate(reader.index.blocks):
        if block.page_size != PAGE_BYTES:
            continue
        for pages, header, intact, others in _picked(reader, block):
            if len(pages):
                parts.append((np.full(len(pages), number, np.int64), pages, header, intact))
            for page, words in others:
                if left:
                    left -= 1
                    special[int(words[PageWord.MAGIC])].append(SpecialPage(number, page, words))
    return AgentScan(
        _joined(parts),
        tuple(special[CONTROL_MAGIC]),
        tuple(special[THREAD_MAGIC]),
        tuple(special[DIRECTORY_MAGIC]),
    )


def _picked(reader: PageReader, block: Block) -> Iterator[_Part]:
    """Yield the agent's pages of a block, by the native core if there is one."""
    if native_core() is None:
        yield from reader.each(block, _pick)
        return
    for pages, places, heads, intact, others in reader.each_by_core(block, follow_agent(), NAME):
        special = [
            (page, np.frombuffer(reader.source.read_whole(place, block.page_size), "<u8"))
            for page, place in zip(others.tolist(), places.tolist(), strict=True)
        ]
        yield pages, heads, intact, special


def follow_agent() -> PageWork:
    """Return the search for agent pages among pages as they are read; there must be a native core.

    It returns the numbers of the data pages, the offsets of the other agent pages in the file, the headers of
    the data pages, whether each is intact, and the numbers of the others.
    """
    core = native_core()
    assert core is not None

    def pick(
        block: Block, file: CoreFile, pages: Numbers, places: Numbers
    ) -> tuple[Numbers, Numbers, Words, npt.NDArray[np.bool_], Numbers]:
        if block.page_size != PAGE_BYTES:
            pages, places = pages[:0], places[:0]
        kinds, heads, intact = core.agent(file, places, block.page_size)
        data, others = kinds == AGENT_DATA, kinds == AGENT_OTHER
        return pages[data], places[others], heads[data], intact[data], pages[others]

    return pick


def _pick(batch: Batch) -> _Part:
    """Pick the agent's pages of one batch.

    Returns:
        Of data pages the page numbers, the headers and whether each is intact; of other agent pages the page
        number and the words.
    """
    words = batch.words
    magics = words[:, PageWord.MAGIC]
    data = np.flatnonzero(magics == np.uint64(DATA_MAGIC))
    some = words if len(data) == len(words) else words[data]
    others = [
        (int(batch.pages[row]), words[row].copy())
        for magic in _SPECIAL
        for row in np.flatnonzero(magics == np.uint64(magic))
    ]
    return batch.pages[data], some[:, : DataWord.BODY].copy(), ap.intact(some), others


def _joined(parts: list[tuple[Numbers, Numbers, Words, npt.NDArray[np.bool_]]]) -> DataPages:
    if not parts:
        none = np.zeros(0, np.int64)
        return DataPages(none, none, np.zeros((0, DataWord.BODY), np.uint64), np.zeros(0, np.bool_))
    return DataPages(
        np.concatenate([part[0] for part in parts]),
        np.concatenate([part[1] for part in parts]),
        np.concatenate([part[2] for part in parts]),
        np.concatenate([part[3] for part in parts]),
    )

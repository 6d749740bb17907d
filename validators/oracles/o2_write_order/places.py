"""Where each agent page should be: the agent's directory pages, translated to RAMBlocks and offsets."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from guest_images.agent import pages as ap
from guest_images.agent.format import (
    DIRECTORY_ENTRIES,
    ControlWord,
    DataWord,
    DirectoryWord,
    PageWord,
    ThreadWord,
)
from harness.codes import Code
from validators.oracles.o2_write_order.meta_pages import page_violation
from validators.oracles.o2_write_order.scan import AgentScan, DataPages, SpecialPage
from validators.verdict import Tally
from validators.vmstate.memory_map import MemoryMap, Sightings, best_map
from validators.vmstate.pages import PageReader

_MAX_SIGHTINGS = 4 << 10
# Above the frame number of any real address; as an address of pages of 64 KiB it still fits in an int64.
_MOST_FRAMES = np.uint64(1 << 46)
_MAX_COPIES = 16

Numbers = npt.NDArray[np.int64]


class AgentPlaces:
    """Where the live agent's pages are.

    Attributes:
        memory: the address map.
        thread_pages: thread page of each thread.
        directory_counts: number of pages of each thread, as its directory pages say.
    """

    def __init__(
        self, reader: PageReader, data: DataPages, memory: MemoryMap, thread_pages: dict[int, SpecialPage],
        frames: dict[int, Numbers],
    ) -> None:  # fmt: skip
        self.memory = memory
        self.thread_pages = thread_pages
        self.directory_counts = {thread: len(numbers) for thread, numbers in frames.items()}
        self._reader = reader
        self._data = data
        self._frames = frames
        self._base = np.cumsum([0, *(block.pages for block in reader.index.blocks)])
        self._global = self._base[data.block] + data.page
        self._order = np.argsort(self._global, kind="stable")
        # With a last number that no page has, so that each search ends at one.
        self._sorted = np.append(self._global[self._order], np.iinfo(np.int64).max)

    def pages_of(self, thread: int, count: int) -> DataPages:
        """Return what the scan found at the place of each index of a thread, as arrays by index.

        A place that holds no data page has a header of zeros and is not intact; its block is -1 if no
        directory page names the place.
        """
        block, page = self._where(thread, count)
        header = np.zeros((count, DataWord.BODY), np.uint64)
        intact = np.zeros(count, np.bool_)
        # For an unknown place this is the number behind that of the last page.
        wanted = self._base[block] + page
        at = np.searchsorted(self._sorted, wanted)
        rows = np.flatnonzero(self._sorted[at] == wanted)
        source = self._order[at[rows]]
        header[rows] = self._data.header[source]
        intact[rows] = self._data.intact[source]
        return DataPages(block, page, header, intact)

    def _where(self, thread: int, count: int) -> tuple[Numbers, Numbers]:
        size = self._reader.index.page_size
        block, page = np.full(count, -1, np.int64), np.zeros(count, np.int64)
        frames = self._frames.get(thread, np.zeros(0, np.int64))[:count]
        gpa = frames * size
        for region in self.memory.regions:
            inside = np.flatnonzero((frames > 0) & (gpa >= region.gpa) & (gpa < region.gpa + region.length))
            block[inside] = region.block
            page[inside] = (gpa[inside] - region.gpa + region.offset) // size
        self._fill_unknown(thread, block, page)
        return block, page

    def _fill_unknown(self, thread: int, block: Numbers, page: Numbers) -> None:
        """Find the pages whose place no directory page names by what they say of themselves."""
        unknown = block < 0
        if not unknown.any():
            return
        header = self._data.header
        mine = np.flatnonzero(self._data.intact & (header[:, DataWord.THREAD] == np.uint64(thread)))
        index = header[mine, DataWord.INDEX]
        fits = index < np.uint64(len(block))
        mine, numbers = mine[fits], index[fits].astype(np.int64)
        take = unknown[numbers]
        block[numbers[take]] = self._data.block[mine[take]]
        page[numbers[take]] = self._data.page[mine[take]]

    def is_zero_page(self, found: DataPages) -> npt.NDArray[np.bool_]:
        """Return which of the places are zero pages in the stream: bool[k]."""
        result = np.zeros(len(found.page), np.bool_)
        for number, block in enumerate(self._reader.index.blocks):
            mine = found.block == number
            result[mine] = block.page_source[found.page[mine]] < 0
        return result

    @cached_property
    def _by_name(self) -> tuple[Numbers, ap.Words]:
        """Return the intact pages sorted by `_names` of their thread and index, and those numbers."""
        intact = np.flatnonzero(self._data.intact)
        header = self._data.header
        keys = _names(header[intact, DataWord.THREAD], header[intact, DataWord.INDEX])
        order = np.argsort(keys, kind="stable")
        return intact[order], keys[order]

    def elsewhere(self, thread: int, index: int, block: int, page: int) -> str:
        """Return a sentence that says where else an intact copy of a page is, "" if there is none."""
        order, keys = self._by_name
        key = _names(np.array([thread], np.uint64), np.array([index], np.uint64))
        first, last = (int(np.searchsorted(keys, key, side)[0]) for side in ("left", "right"))
        same = order[first : min(last, first + _MAX_COPIES)]
        data = self._data
        # Of pages with one hash those with one index are of one thread.
        where = same[
            (data.header[same, DataWord.INDEX] == np.uint64(index))
            & ~((data.block[same] == block) & (data.page[same] == page))
        ]
        if not len(where):
            return ""
        info = self._reader.index.blocks[int(self._data.block[where[0]])]
        offset = int(self._data.page[where[0]]) * info.page_size
        return f" A copy of that page is at 0x{offset:x} of RAMBlock '{info.idstr}'."


def _names(thread: ap.Words, index: ap.Words) -> ap.Words:
    """Return a hash of each (thread, index)."""
    return ap.mix(ap.mix(thread) ^ index)


def find_places(reader: PageReader, scan: AgentScan, control: SpecialPage, tally: Tally) -> AgentPlaces:
    """Read the live agent's directory pages and find the address map that agrees with its pages."""
    nonce = control[PageWord.NONCE]
    data = scan.data.select(scan.data.header[:, PageWord.NONCE] == np.uint64(nonce))
    threads: dict[int, SpecialPage] = {}
    for page in scan.threads:
        thread = page[ThreadWord.NUMBER]
        if page[PageWord.NONCE] != nonce or thread >= control[ControlWord.THREADS]:
            continue
        # The kernel may have moved the page and left the old copy behind; the later one is live.
        if thread not in threads or page[ThreadWord.STEPS] > threads[thread][ThreadWord.STEPS]:
            threads[thread] = page
    frames = _frames(reader, scan, control, tally)
    memory, disagreeing = best_map(reader.index, _sightings(reader, data, frames))
    tally.facts["pages away from their directory place"] = disagreeing
    return AgentPlaces(reader, data, memory, threads, frames)


def _frames(reader: PageReader, scan: AgentScan, control: SpecialPage, tally: Tally) -> dict[int, Numbers]:
    """Return the guest page frame number of each page of each thread, 0 if unknown."""
    left = sum(block.pages for block in reader.index.blocks)
    listed: dict[int, list[SpecialPage]] = {}
    sizes: dict[int, int] = {}
    for page in scan.directories:
        if page[PageWord.NONCE] != control[PageWord.NONCE]:
            continue
        thread, count = page[DirectoryWord.THREAD], page[DirectoryWord.COUNT]
        end, known = page[DirectoryWord.FIRST_INDEX] + count, sizes.get(thread, 0)
        whole = int(ap.checksum(page.words[None, :])[0]) == page[DirectoryWord.CHECKSUM]
        right = whole and thread < control[ControlWord.THREADS] and count <= DIRECTORY_ENTRIES
        if not right or end - known > left:
            _report_directory(reader, page, tally)
            continue
        # Bound memory: all threads together cannot have more pages than the file.
        sizes[thread] = max(known, end)
        left -= sizes[thread] - known
        listed.setdefault(thread, []).append(page)
    return {thread: _frames_of(pages, sizes[thread]) for thread, pages in listed.items()}


def _frames_of(directories: list[SpecialPage], size: int) -> Numbers:
    """Return the guest page frame numbers of a thread's first `size` pages from its directory pages."""
    numbers = np.zeros(size, np.int64)
    start = DirectoryWord.FRAMES
    for page in directories:
        first, count = page[DirectoryWord.FIRST_INDEX], page[DirectoryWord.COUNT]
        frames = np.minimum(page.words[start : start + count], _MOST_FRAMES)
        numbers[first : first + count] = frames.astype(np.int64)
    return numbers


def _report_directory(reader: PageReader, page: SpecialPage, tally: Tally) -> None:
    block = reader.index.blocks[page.block]
    sentence = f"The directory page at 0x{page.page * block.page_size:x} of '{block.idstr}' is corrupt."
    code, thread = Code.WRITE_ORDER_BAD_DIRECTORY_PAGE, page[DirectoryWord.THREAD]
    tally.add(page_violation(reader, page, code, sentence, thread=thread))


def _sightings(reader: PageReader, data: DataPages, frames: dict[int, Numbers]) -> Sightings:
    """Return a sample of the intact pages, each with the address that its directory page gives."""
    intact = np.flatnonzero(data.intact)
    sample = intact[:: max(1, len(intact) // _MAX_SIGHTINGS)]
    header, frame = data.header[sample], np.zeros(len(sample), np.int64)
    for thread, numbers in frames.items():
        index = header[:, DataWord.INDEX]
        listed = (header[:, DataWord.THREAD] == np.uint64(thread)) & (index < np.uint64(len(numbers)))
        frame[listed] = numbers[index[listed].astype(np.int64)]
    known, size = frame > 0, reader.index.page_size
    mine = sample[known]
    return Sightings(frame[known] * size, data.block[mine], data.page[mine] * size)

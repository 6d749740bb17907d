"""An undamaged vmstate file that faults are planted in: its index, and the agent's pages in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from guest_images.agent import pages as ap
from guest_images.agent.format import ControlWord, DataWord, PageWord, ThreadWord
from validators.oracles.o2_write_order.scan import AgentScan, DataPages, SpecialPage, scan_agent
from validators.vmstate.pages import PageReader
from validators.vmstate.stream import format as fmt
from validators.vmstate.stream.index import Block, Section, SnapshotIndex
from validators.vmstate.stream.reader import read_index
from validators.vmstate.stream.source import FileSource, open_source

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Edit:
    """Replace `length` bytes at `offset` of the file by `data`, which may be shorter or longer."""

    offset: int
    length: int
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class DamagePlace:
    """The place of a planted fault; a violation inside it names the place correctly.

    Attributes:
        words: the place for a person.
        start: first file offset of the damaged record, section or header.
        end: file offset behind it.
        block: RAMBlock of the damaged pages, "" if no page is damaged.
        offsets: byte offsets of the damaged pages inside that RAMBlock.
    """

    words: str
    start: int = -1
    end: int = -1
    block: str = ""
    offsets: tuple[int, ...] = ()


@dataclass(frozen=True)
class Damage:
    """What to change in a file to plant a fault.

    Attributes:
        edits: changes in ascending, non-overlapping order.
        place: where the damage is.
    """

    edits: tuple[Edit, ...]
    place: DamagePlace

    @staticmethod
    def none() -> Damage:
        """Return a damage that changes nothing."""
        return Damage((), DamagePlace("nowhere"))


@dataclass(frozen=True)
class Record:
    """One page record of a plain stream; file offsets in bytes.

    Attributes:
        block: position of the RAMBlock.
        page: page number.
        start: offset of its header word.
        end: offset behind its data or fill byte.
    """

    block: int
    page: int
    start: int
    end: int


class Subject:
    """An undamaged file that faults are planted in.

    Attributes:
        source: the file.
        index: its index.
        reader: its pages.
        random: the only source of random numbers, so that a seed repeats a fault.
    """

    def __init__(self, source: FileSource, index: SnapshotIndex, seed: int) -> None:
        self.source = source
        self.index = index
        self.reader = PageReader(source, index)
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Seed the random numbers anew, so that a fault does not depend on those planted before."""
        self.random = np.random.default_rng(seed)

    @cached_property
    def scan(self) -> AgentScan:
        """Return all agent pages."""
        return scan_agent(self.reader)

    @cached_property
    def control(self) -> SpecialPage | None:
        """Return the live agent's control page, None if there is no agent."""
        return max(self.scan.controls, key=lambda page: page[ControlWord.REALTIME_NS], default=None)

    @cached_property
    def agent_pages(self) -> DataPages:
        """Return the live agent's intact data pages that are not being written at T0."""
        data = self.scan.data
        mask = data.intact & (data.header[:, PageWord.NONCE] == np.uint64(self.nonce))
        for page in self.thread_pages:
            thread, steps = page[ThreadWord.NUMBER], page[ThreadWord.STEPS]
            writing, _ = self.schedule(thread).locate(np.array([steps], np.uint64))
            same = data.header[:, DataWord.THREAD] == np.uint64(thread)
            mask &= ~(same & (data.header[:, DataWord.INDEX] == writing[0]))
        return data.select(mask)

    @property
    def nonce(self) -> int:
        """Return the live agent's nonce, 0 if there is no agent."""
        return self.control[PageWord.NONCE] if self.control else 0

    @cached_property
    def thread_pages(self) -> tuple[SpecialPage, ...]:
        """Return the live agent's thread pages."""
        return tuple(page for page in self.scan.threads if page[PageWord.NONCE] == self.nonce)

    def schedule(self, thread: int) -> ap.Schedule:
        """Return the write order of an agent thread."""
        assert self.control is not None
        pages = self.thread_pages
        count = next(page[ThreadWord.PAGES] for page in pages if page[ThreadWord.NUMBER] == thread)
        return ap.Schedule(self.control[ControlWord.PATTERN], count, self.control[ControlWord.SEED], thread)

    def pick(self, count: int) -> int:
        """Return a random number below `count`."""
        return int(self.random.integers(count))

    def bytes_at(self, start: int, end: int) -> bytes:
        """Return the bytes of the file from `start` to `end`."""
        return self.source.read(start, end - start)

    @property
    def plain(self) -> bool:
        """Whether pages follow one another as records."""
        return not self.index.mapped

    def main_block(self) -> tuple[int, Block]:
        """Return the position of the largest RAMBlock, and the RAMBlock."""
        return max(enumerate(self.index.blocks), key=lambda item: item[1].used_length)

    def record(self, data: bool) -> Record | None:
        """Return a random record of a data page (or a zero page) that continues with its RAMBlock."""
        if not self.plain:
            return None
        number, block = self.main_block()
        source = block.page_source
        pages = np.flatnonzero(source > 0 if data else source < 0)
        kind = fmt.FLAG_PAGE if data else fmt.FLAG_ZERO
        for page in self.random.permutation(pages)[:64]:
            start = int(source[page]) - 8 if data else -int(source[page])
            word = int(page) * block.page_size | kind | fmt.FLAG_CONTINUE
            if self.bytes_at(start, start + 8) == word.to_bytes(8, "big"):
                size = block.page_size if data else 1
                return Record(number, int(page), start, start + 8 + size)
        return None

    def page_place(self, block: int, *pages: int) -> DamagePlace:
        """Return the place of pages of a RAMBlock."""
        info = self.index.blocks[block]
        offsets = tuple(page * info.page_size for page in pages)
        words = f"page 0x{offsets[0]:x} of {info.idstr}"
        return DamagePlace(words, block=info.idstr, offsets=offsets)

    def section_place(self, section: Section) -> DamagePlace:
        """Return the place of a whole section with its footer."""
        name = f"section {section.idstr} ({section.instance})"
        return DamagePlace(name, section.offset, section.data_end + (5 if self.index.footers else 0))

    def section_end(self, section: Section) -> int:
        """Return the file offset behind a section and its footer."""
        return section.data_end + (5 if self.index.footers else 0)

    def device(self) -> Section:
        """Return a random device section, neither the first nor the last."""
        devices = self.index.devices
        return devices[1 + self.pick(max(1, len(devices) - 2))]


@contextmanager
def open_subject(path: Path, seed: int) -> Iterator[Subject]:
    """Open an undamaged vmstate file.

    Raises:
        UsageError: it is not a vmstate file.
    """
    with open_source(path) as source:
        yield Subject(source, read_index(source), seed)

"""Finds every agent page in a vmstate file and reads what it says of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from validators import agent_pages as ap
from validators.pages import PageReader

Numbers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
_MAX_SPECIAL = 100_000


@dataclass(frozen=True)
class DataPages:
    """All data pages found, as arrays of equal length in file order.

    Attributes:
        block: int64, position of the RAMBlock.
        page: int64, page number in it.
        header: uint64[k, 6], words 0..5: magic, nonce, thread, index, generation, step.
        intact: bool, body and checksum agree with the header.
    """

    block: Numbers
    page: Numbers
    header: Words
    intact: npt.NDArray[np.bool_]

    def select(self, mask: npt.NDArray[np.bool_]) -> DataPages:
        """Those where `mask` is set."""
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


def scan_agent(reader: PageReader, progress: Callable[[int], None] | None = None) -> AgentScan:
    """Read all pages once and pick the agent's.

    Args:
        reader: the file; its pages must have 4096 bytes, otherwise nothing is found.
        progress: called with the number of pages looked at since the last call.
    """
    parts: list[tuple[Numbers, Numbers, Words, npt.NDArray[np.bool_]]] = []
    special: dict[int, list[SpecialPage]] = {
        ap.CONTROL_MAGIC: [], ap.THREAD_MAGIC: [], ap.DIRECTORY_MAGIC: [],
    }  # fmt: skip
    for number, block in enumerate(reader.index.blocks):
        if block.page_size != ap.PAGE_BYTES:
            continue
        for batch in reader.batches(block):
            words = batch.words
            first = words[:, 0]
            data = np.flatnonzero(first == np.uint64(ap.DATA_MAGIC))
            if len(data):
                some = words if len(data) == len(words) else words[data]
                where = np.full(len(data), number, np.int64)
                parts.append((where, batch.pages[data], some[:, :6].copy(), ap.intact(some)))
            for magic, found in special.items():
                for row in np.flatnonzero(first == np.uint64(magic)):
                    if len(found) < _MAX_SPECIAL:
                        found.append(SpecialPage(number, int(batch.pages[row]), words[row].copy()))
            if progress:
                progress(len(words))
    return AgentScan(
        _joined(parts),
        tuple(special[ap.CONTROL_MAGIC]),
        tuple(special[ap.THREAD_MAGIC]),
        tuple(special[ap.DIRECTORY_MAGIC]),
    )


def _joined(parts: list[tuple[Numbers, Numbers, Words, npt.NDArray[np.bool_]]]) -> DataPages:
    if not parts:
        none = np.zeros(0, np.int64)
        return DataPages(none, none, np.zeros((0, 6), np.uint64), np.zeros(0, np.bool_))
    return DataPages(
        np.concatenate([part[0] for part in parts]),
        np.concatenate([part[1] for part in parts]),
        np.concatenate([part[2] for part in parts]),
        np.concatenate([part[3] for part in parts]),
    )

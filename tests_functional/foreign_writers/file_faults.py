"""Damages a vmstate file between the save and its judgement, as a save that loses what a device wrote would.

Each must turn a check of a foreign writer red: what QEMU does wrong today (F26, F41) shows only one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from tests_functional.foreign_writers.marks import MarkedPage, Marks
from validators.vmstate.stream.index import SnapshotIndex
from validators.vmstate.stream.reader import read_index
from validators.vmstate.stream.source import open_source

# In disk_reads.py the headers of requests are behind the three pages of the queue.
_REQUESTS_PAGE = 3


@dataclass(frozen=True)
class Damaged:
    """A file that a fault is planted in.

    Attributes:
        path: the file.
        index: of its pages.
        marks: those of the test.
        control: guest-physical address of the control pages, which in main memory is their offset.
    """

    path: Path
    index: SnapshotIndex
    marks: Marks
    control: int

    def marked(self) -> list[MarkedPage]:
        """Return the pages that a foreign writer wrote."""
        return self.marks.in_file(self.path)

    def read(self, block: str, offset: int) -> bytes:
        """Return a page's content."""
        with self.path.open("rb") as file:
            file.seek(self._place(block, offset))
            return file.read(TARGET_PAGE_BYTES)

    def write(self, block: str, offset: int, content: bytes) -> None:
        """Replace a page's content."""
        with self.path.open("r+b") as file:
            file.seek(self._place(block, offset))
            file.write(content)

    def _place(self, block: str, offset: int) -> int:
        """Return where a page's content is in the file.

        Raises:
            SetupBroken: the file has no content of such a page.
        """
        page = offset // TARGET_PAGE_BYTES
        for found in self.index.blocks:
            if found.idstr == block and page < len(found.page_source) and found.page_source[page] > 0:
                return int(found.page_source[page])
        raise SetupBroken(f"The file has no content of the page at {offset:#x} of '{block}'.")


def _lose(file: Damaged) -> int:
    """Blank a page that the writer wrote before T0."""
    page = file.marked()[0]
    file.write(page.block, page.offset, bytes(TARGET_PAGE_BYTES))
    return 1


def _double(file: Damaged) -> int:
    """Give the page in front of the control pages the content of one that the writer wrote."""
    page = file.marked()[0]
    # The agent's last page lies there.
    file.write(page.block, file.control - TARGET_PAGE_BYTES, file.read(page.block, page.offset))
    return 1


def _forget(file: Damaged) -> int:
    """Blank the requests that the writer was given before T0, which then ask for the pass before."""
    block = file.marked()[0].block
    file.write(block, file.control + _REQUESTS_PAGE * TARGET_PAGE_BYTES, bytes(TARGET_PAGE_BYTES))
    return 1


FILE_FAULTS: Mapping[str, Callable[[Damaged], int]] = {
    "lose-write": _lose,
    "double-write": _double,
    "forget-requests": _forget,
}
"""The faults by name; each returns how often it acted. They are for files of the writer `virtio-blk`."""


def plant(name: str, path: Path, marks: Marks, control: int) -> int:
    """Plant a fault of FILE_FAULTS in a file, and return how often it acted.

    Args:
        name: the fault's.
        path: the file, which is changed in its place.
        marks: those of the test.
        control: guest-physical address of the control pages.

    Raises:
        SetupBroken: the file has not the page that is to be damaged.
    """
    with open_source(path) as source:
        index = read_index(source)
    return FILE_FAULTS[name](Damaged(path, index, marks, control))
